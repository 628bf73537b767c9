# The registry: API, worker and admin commands in one image, without PyTorch.
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ci ci
COPY locks locks
COPY client client
COPY registry registry
COPY migrations migrations
COPY docs docs
COPY ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md ./
# The documents, which the registry serves at /docs, with tools that stay behind.
RUN python -m venv /opt/site \
    && /opt/site/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: --requirement locks/registry.txt --requirement locks/site.txt \
    && PYTHONPATH=client:registry /opt/site/bin/python docs/build.py
# Only what locks/registry.txt names, byte for byte; the wheel brings its bill of materials (.dist-info/sboms).
RUN python -m venv /opt/lorahub \
    && /opt/lorahub/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: --requirement locks/registry.txt \
    && /opt/lorahub/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/lorahub lorahub \
    && install --directory --owner=lorahub --group=lorahub --mode=0700 /var/lib/lorahub
COPY --from=build /opt/lorahub /opt/lorahub
ENV PATH=/opt/lorahub/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LORAHUB_REGISTRY_HOME=/var/lib/lorahub
USER 10001:10001
# Written to: this folder (a volume, or memory where database and storage are elsewhere) and /tmp. All else may be read-only.
VOLUME /var/lib/lorahub
EXPOSE 8017
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8017/livez', timeout=2)"]
ENTRYPOINT ["lorahub"]
CMD ["serve", "--host", "0.0.0.0"]
