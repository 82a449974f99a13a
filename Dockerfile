# For the CPU; for a GPU name the index of a CUDA build of torch: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cuVERSION
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/lego-serve

# torch first, by itself: it is most of the image and changes least. A CUDA build names the Triton it needs.
COPY constraints.txt ./
RUN case "$TORCH_INDEX" in */cpu) ;; *) sed -i '/^triton==/d' constraints.txt ;; esac \
    && pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple -c constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY lego_serve lego_serve
COPY loadgen loadgen
COPY kernels kernels
RUN pip install -c constraints.txt .

COPY configs configs

RUN useradd --create-home --uid 10001 lego
USER lego
WORKDIR /home/lego

EXPOSE 8000
# The port is that of the default configuration; a mounted one should keep it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import sys, urllib.request; sys.exit(urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4).status != 200)"]

# SIGTERM ends it well. Without keys it listens on the container's own loopback: see docs/operations.md, In a container.
ENTRYPOINT ["lego-serve"]
CMD ["serve", "/opt/lego-serve/configs/tiny.yaml"]
