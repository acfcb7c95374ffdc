# Answers: the nodes of a Ray cluster that runs the Serve application, and the MLflow server. No DeepSpeed.
#
#     docker build --file deploy/images/serve.Dockerfile --tag manta-serve .

ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
# The versions are the lock's, the packages those that the role needs.
RUN python -m venv /opt/manta \
 && /opt/manta/bin/pip install --no-cache-dir --constraint requirements.lock ".[serve]"

FROM python:${PYTHON}-slim
# KubeRay's health checks call wget.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home manta
COPY --from=build /opt/manta /opt/manta
ENV PATH=/opt/manta/bin:$PATH \
    MANTA_STORAGE=/storage \
    RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /home/manta
# In place of HAProxy, rayservice.yaml has Ray start the launcher that protects it.
RUN python -m manta_serve.running.haproxy /home/manta/haproxy
