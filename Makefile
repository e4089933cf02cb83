# What a contributor runs; CONTRIBUTING.md says when.
.PHONY: quick test all docs campaigns lint

quick: ## tests without Ray, vLLM, DeepSpeed or transformers engines
	python -m pytest -m "not engines and not long"

test: ## what has to pass before a commit, on two processes: everything but whole studies and campaigns
	python -m pytest

all: ## every test; before a release, and after changes of studies, recovery or a task
	python -m pytest -m ""

docs: ## the site, below site/; a broken link is an error
	mkdocs build --strict

campaigns: ## processes killed at random moments, and long runs; minutes to hours
	python -m pytest -n 0 tests/campaigns

lint: ## style and types
	ruff check .
	ruff format --check .
	mypy
