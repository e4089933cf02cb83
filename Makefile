# What a contributor runs; CONTRIBUTING.md says when.
.PHONY: quick test docs campaigns lint

quick: ## tests without Ray, vLLM, DeepSpeed or transformers engines
	python -m pytest -m "not engines"

test: ## every test, on two processes
	python -m pytest

docs: ## the site, below site/; a broken link is an error
	mkdocs build --strict

campaigns: ## processes killed at random moments, and long runs; minutes to hours
	python -m pytest -n 0 tests/campaigns

lint: ## style and types
	ruff check .
	ruff format --check .
	mypy
