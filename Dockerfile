# Two images of one source: `gateway` has no torch, `worker` (the default) has everything.
#   docker build --target gateway -t lego-serve:gateway .
#   docker build -t lego-serve:worker .
# BASE: any image with Python 3.11 and its venv module. For builds that can be repeated name it by digest:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/venv
COPY constraints.txt ./

# What each image installs, by itself: another version of the package, or another rule for its checks, leaves it as it was.
FROM build AS needs
COPY pyproject.toml deploy/requirements.py ./
RUN python3 requirements.py otel > gateway.txt && python3 requirements.py worker otel > worker.txt

# What others wrote comes first, by itself: it is most of an image and changes least. It is compiled here, for on a
# read-only root it never is later, and a Ray head took 43 s instead of 9 s without. By content and not by time, since
# copies between images change times. torch's own tests have files for later Pythons, which do not compile.
FROM build AS build-gateway
COPY --from=needs /build/gateway.txt requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --no-compile -c constraints.txt -r requirements.txt
RUN /opt/venv/bin/python -m compileall -q -f -j 0 -x /torch/testing/ --invalidation-mode unchecked-hash /opt/venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY lego_serve lego_serve
COPY loadgen loadgen
COPY kernels kernels
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --no-deps --no-compile -c constraints.txt . \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/lego_* /opt/venv/lib/python3*/site-packages/loadgen

FROM build AS build-worker
# For the CPU; for a GPU the index of a CUDA build: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cuVERSION
# A CUDA build names the Triton it needs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip case "$TORCH_INDEX" in */cpu) ;; *) sed -i '/^triton==/d' constraints.txt ;; esac \
    && /opt/venv/bin/pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple -c constraints.txt torch
COPY --from=needs /build/worker.txt requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --no-compile -c constraints.txt -r requirements.txt
RUN /opt/venv/bin/python -m compileall -q -f -j 0 -x /torch/testing/ --invalidation-mode unchecked-hash /opt/venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY lego_serve lego_serve
COPY loadgen loadgen
COPY kernels kernels
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --no-deps --no-compile -c constraints.txt . \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/lego_* /opt/venv/lib/python3*/site-packages/loadgen

FROM ${BASE} AS run
# What a supervisor would set: Ray nodes are started by others here.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_ENABLE_AUTO_CONNECT=0 \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.5
RUN useradd --create-home --uid 10001 lego && install -d -o 10001 -g 10001 /var/lib/lego-serve
COPY configs /opt/lego-serve/configs
WORKDIR /home/lego
EXPOSE 8000
# Of the default port; another one: `lego-serve health --url`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["lego-serve", "health"]
# SIGTERM ends it well. Without keys it listens on the container's own loopback: see docs/deployment.md.
ENTRYPOINT ["lego-serve"]

FROM run AS gateway
COPY --from=build-gateway /opt/venv /opt/venv
USER 10001:10001
CMD ["gateway", "/etc/lego-serve/config.yaml"]

FROM run AS worker
COPY --from=build-worker /opt/venv /opt/venv
USER 10001:10001
CMD ["serve", "/opt/lego-serve/configs/tiny.yaml"]
