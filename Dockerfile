# PatchScaler in a container. Weights are inside; nothing is fetched when it runs.
#
#   docker build -t patchscaler .
#   docker run --rm --user "$(id -u)" -v "$PWD:/pictures" patchscaler upscale photo.jpg
#
#   docker build --build-arg VARIANT=cuda -t patchscaler:cuda .
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/pictures" patchscaler:cuda upscale photo.jpg
#
# torch's wheels for CUDA bring CUDA's libraries along, so both variants start from one base: the machine needs
# NVIDIA's driver and container toolkit. EXTRAS are those of pyproject.toml, separated by commas.

ARG VARIANT=cpu

FROM python:3.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 1000 patchscaler && mkdir /pictures && chown patchscaler /pictures

FROM base AS torch-cpu
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir "torch==${TORCH_VERSION}" --index-url "${TORCH_INDEX}"

FROM base AS torch-cuda
ARG TORCH_VERSION=2.13.0
RUN pip install --no-cache-dir "torch==${TORCH_VERSION}"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM torch-${VARIANT} AS patchscaler
ARG EXTRAS=formats,hub
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
# What is installed is this folder, so there is no version to pin.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]" && patchscaler info --verify
# Whoever runs it may have another number (--user): caches go where everybody may write.
ENV HOME=/tmp
USER 1000
WORKDIR /pictures
ENTRYPOINT ["patchscaler"]
CMD ["--help"]
