# mlm_dist with DeepSpeed, for NVIDIA GPUs. The entry point is `accelerate launch`; put its arguments after the image.
#
#     docker build --tag mlm_dist .
#     docker run --rm mlm_dist                                                      # list all keys of the config
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data mlm_dist mlm_dist/train.py
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --volume "$PWD/docs:/docs:ro" mlm_dist \
#         --config_file configs/accelerate/zero2.yaml --num_processes 4 mlm_dist/train.py --corpus.source /docs
#     docker run --rm --gpus all --ipc host --volume mlm_dist:/data --entrypoint /app/launch/local.sh mlm_dist
#
# The volume holds everything that must outlive a container: caches, prepared corpora and runs (runs is /data).
# To use a folder instead of the volume, make it writable for user 10001 or pass --user "$(id -u):$(id -g)".
# --ipc host: the processes of a run exchange data through shared memory, of which a container has only 64 MB.

# The CUDA version of torch's wheels, which contain the CUDA libraries. The host provides the driver (580 or later).
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# git fetches corpora. DeepSpeed and torch.compile build code on first use with g++ and Python's headers. The scripts in
# launch/ use pkill from procps.
# hadolint ignore=DL3008 # Ubuntu's archive has only the newest build of a package, so a pinned version soon fails
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
# With --user there is no entry in /etc/passwd, so the home folder and the user name are set here.
ENV HOME=/data \
    USER=mlm \
    HF_HOME=/data/huggingface \
    TORCH_EXTENSIONS_DIR=/data/torch_extensions \
    TORCHINDUCTOR_CACHE_DIR=/data/torchinductor
VOLUME /data

HEALTHCHECK --interval=10m --timeout=2m --start-period=2m CMD ["python3", "mlm_dist/train.py", "--help"]
ENTRYPOINT ["accelerate", "launch"]
CMD ["mlm_dist/train.py", "--help"]
