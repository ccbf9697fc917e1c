# sdsd against model servers: no model, no compiler, no root.
#
#   docker build -t sdsd .
#   docker run --rm -v "$PWD/runs:/data/runs" --user "$(id -u):$(id -g)" sdsd demo
#
# compose.yaml adds a vLLM. For the embedded engine, build with --build-arg EXTRAS=local,hub.
FROM python:3.13-slim AS build
ARG EXTRAS=hub,metrics,otel,tokens
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/sdsd && /opt/sdsd/bin/pip install --no-cache-dir ".[$EXTRAS]"

FROM python:3.13-slim
COPY --from=build /opt/sdsd /opt/sdsd
# Anybody may be the user of a container whose volume belongs to somebody else.
RUN useradd --create-home --uid 1000 sdsd && install -d -m 1777 /data /data/runs
ENV PATH=/opt/sdsd/bin:$PATH
WORKDIR /data
USER 1000
ENTRYPOINT ["sdsd"]
CMD ["--help"]
