# The page. No torch, no Ray.
#
#     docker build --file deploy/images/ui.Dockerfile --tag manta-ui .

ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
# The versions are the lock's, the packages those that the role needs.
RUN python -m venv /opt/manta \
 && /opt/manta/bin/pip install --no-cache-dir --constraint requirements.lock ".[ui]"

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home manta
COPY --from=build /opt/manta /opt/manta
ENV PATH=/opt/manta/bin:$PATH
USER 1000
EXPOSE 7860
ENTRYPOINT ["manta", "ui"]
