# mlm_dist with DeepSpeed, for NVIDIA GPUs. The entry point is `accelerate launch`; what follows it is yours.
#
#     docker build --tag mlm_dist .
#     docker run --rm mlm_dist                                                      # all keys of the configuration
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data mlm_dist mlm_dist/train.py
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --volume "$PWD/docs:/docs:ro" mlm_dist \
#         --config_file configs/accelerate/zero2.yaml --num_processes 4 mlm_dist/train.py --corpus.source /docs
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --entrypoint /app/launch/local.sh mlm_dist
#
# Everything that outlives a container is in the volume: caches, prepared corpora, and runs (runs/NAME is /data/NAME).
# A folder of yours in its place must be writable for user 10001, or pass --user "$(id -u):$(id -g)".
# --ipc host: the processes of a run exchange data through shared memory, of which a container has 64 MB.

# The CUDA version of torch's own wheels, which bring the libraries; the driver comes from the host (580 or later).
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# git fetches corpora; g++ and Python's headers build what DeepSpeed and torch.compile build at first use; launch/ needs
# pkill, of procps.
# hadolint ignore=DL3008 # Ubuntu's archive keeps the newest build of a package alone, so that a pinned one soon fails
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates g++ git procps python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin mlm \
    && install --directory --owner mlm --group mlm /data \
    && python3 -m venv /opt/venv

WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# The dependencies, gigabytes of them, are a layer of their own, which a change of the source leaves alone.
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
# Set by name as well, since with --user there is no entry in /etc/passwd to tell the home folder or the user's name.
ENV HOME=/data \
    USER=mlm \
    HF_HOME=/data/huggingface \
    TORCH_EXTENSIONS_DIR=/data/torch_extensions \
    TORCHINDUCTOR_CACHE_DIR=/data/torchinductor
VOLUME /data

HEALTHCHECK --interval=10m --timeout=2m --start-period=2m CMD ["python3", "mlm_dist/train.py", "--help"]
ENTRYPOINT ["accelerate", "launch"]
CMD ["mlm_dist/train.py", "--help"]
