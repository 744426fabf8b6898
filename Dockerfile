# mlm_dist with DeepSpeed, for NVIDIA GPUs and for CPUs. The entry point is `mlm-dist`; put its arguments after the image.
#
#     docker build --tag mlm_dist .
#     docker run --rm mlm_dist                                                      # list the jobs
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data mlm_dist train --topology gpu
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --volume "$PWD/docs:/docs:ro" mlm_dist \
#         train --topology zero2 --num_processes 4 --corpus.source /docs
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --entrypoint /app/launch/local.sh mlm_dist
#
# The exit code is that of `mlm-dist`: 75 if the run was stopped and saved, for example by `docker stop --time 600`. The
# same command resumes it.
#
# The volume holds everything that must outlive a container: caches, prepared corpora and runs (runs is /data).
# To use a folder instead of the volume, make it writable for user 10001 or pass --user "$(id -u):$(id -g)".
# --ipc host: the processes of a run exchange data through shared memory, of which a container has only 64 MB.

# torch's wheels contain the CUDA libraries, so the base image has none. The host provides the driver (580 or later for
# CUDA 13) through the NVIDIA Container Toolkit.
FROM python:3.13-slim-bookworm

# git fetches corpora. DeepSpeed and torch.compile build code on first use with g++; Python's headers are in the image.
# The scripts in launch/ use pkill from procps.
# hadolint ignore=DL3008 # Debian's archive has only the newest build of a package, so a pinned version soon fails
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ git procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin mlm \
    && install --directory --owner mlm --group mlm /data \
    && python3 -m venv /opt/venv

WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# The dependencies take gigabytes. They are a separate layer, so a change of the source does not install them again.
COPY setup.cfg constraints.txt ./
RUN python3 -c "from configparser import ConfigParser; c = ConfigParser(); c.read('setup.cfg'); \
        print(c['options']['install_requires'], c['options.extras_require']['deepspeed'])" > /tmp/requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[deepspeed]' \
    && rm -rf build mlm_dist.egg-info \
    && ln -s /data runs

USER 10001:10001
# With --user there is no entry in /etc/passwd, so the home folder and the user name are set here. The NVIDIA variables
# are those of NVIDIA's own images: all GPUs that --gpus selects, with what CUDA and nvidia-smi need.
ENV HOME=/data \
    USER=mlm \
    HF_HOME=/data/huggingface \
    TORCH_EXTENSIONS_DIR=/data/torch_extensions \
    TORCHINDUCTOR_CACHE_DIR=/data/torchinductor \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /data

HEALTHCHECK --interval=10m --timeout=2m --start-period=2m CMD ["mlm-dist", "--version"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mlm-dist"]
CMD ["--help"]
