# diffopd in a container; docs/docker.md says how to build it for a CPU or an NVIDIA GPU, and how to run it.
ARG BASE=python:3.11-slim
FROM ${BASE}

# CUDA images come without Python.
RUN command -v python3 >/dev/null || { \
        apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }

# As in the Makefile: the index of PyTorch's CPU wheels, for an image without GPU libraries.
ARG TORCH_ARGS=
WORKDIR /opt/diffopd
# torch before the code: a change of the code does not download it again.
COPY constraints.txt ./
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir ${TORCH_ARGS} -c constraints.txt torch
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src src
COPY conf conf
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt .

ENV PATH=/opt/venv/bin:$PATH
# Runs are written to /work/runs: mount a folder there to keep them.
WORKDIR /work
# `docker stop` asks the run to save a checkpoint and end.
STOPSIGNAL SIGTERM
ENTRYPOINT ["diffopd"]
CMD ["train", "+experiment=mopd_balanced"]
