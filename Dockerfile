# The genprm command, also the services; for models behind --base-url and the built-in model. Snippets run under bubblewrap.
#   docker build -t genprm .
#   docker run --rm --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
#     -v "$PWD:/data" -w /data genprm verify solutions.jsonl --model GenPRM/GenPRM-7B --base-url http://host:8000/v1
# bubblewrap creates namespaces, which Docker's default profile forbids; snippets run under the sandbox's stricter filter.
# Services side by side: examples/deploy/compose.yaml. On a GPU: --build-arg EXTRAS=[vllm,serve] --build-arg TORCH_INDEX= on a CUDA base.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
FROM ${PYTHON_IMAGE} AS build
COPY . /source
RUN python -m pip wheel --no-deps --wheel-dir /wheels /source

FROM ${PYTHON_IMAGE}
ARG EXTRAS=[torch,serve]
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update -q && apt-get install -q -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN wheel=$(ls /wheels/genprm-*.whl) \
    && python -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "genprm${EXTRAS} @ file://$wheel" \
    && rm -r /wheels && useradd --create-home genprm && install -d -o genprm /data /run/genprm
USER genprm
WORKDIR /data
ENTRYPOINT ["genprm"]
CMD ["--help"]
