# Trains, tunes, evaluates and predicts: the head and the workers of a Ray cluster.
#
#     docker build --file deploy/images/train.Dockerfile --tag manta-train .

ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
# The versions are the lock's, the packages those that the role needs.
RUN python -m venv /opt/manta \
 && /opt/manta/bin/pip install --no-cache-dir --constraint requirements.lock ".[jobs,demo]"

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
