# An image of a node with NVIDIA GPUs, for Kubernetes (kuberay.yaml) or `docker run --gpus all`; the driver (580 or newer)
# comes from the host. Build it from the checkout: docker build -t YOUR_REGISTRY/scpl-ray:0.2.0 .
FROM ubuntu:24.04

# Triton compiles its kernels with a C compiler and Python.h, vLLM calls lscpu on a CPU, and KubeRay's probes call wget.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates gcc g++ libc6-dev python3.12-dev python3.12-venv util-linux wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash --uid 1001 ray

USER ray
WORKDIR /home/ray/scpl_ray
ENV PATH=/home/ray/venv/bin:$PATH PIP_NO_CACHE_DIR=1
RUN python3.12 -m venv /home/ray/venv

# The packages first: a change of the code does not install them again.
COPY --chown=ray requirements-gpu.lock ./
RUN pip install --quiet --no-deps -r requirements-gpu.lock
COPY --chown=ray . ./
RUN pip install --quiet --no-deps -e .

CMD ["scpl", "doctor"]
