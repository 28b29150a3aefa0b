# The gateway's image: the locked dependencies, then the code, on a slim Python. All dependencies have wheels, so it needs
# no compiler.

ARG PYTHON_IMAGE=python:3.14-slim

FROM $PYTHON_IMAGE AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/runtime.txt requirements/
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --require-hashes --only-binary :all: -r requirements/runtime.txt

FROM dependencies AS wheel
COPY . source
RUN /opt/gateway/bin/pip install --no-deps --require-hashes -r source/requirements/build.txt \
 && /opt/gateway/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel ./source

FROM $PYTHON_IMAGE
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
CMD ["gateway", "serve", "--host", "0.0.0.0", "--port", "8000"]
RUN groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid gateway --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway
# Two layers, so that a change of the code replaces only the small one.
COPY --from=dependencies /opt/gateway /opt/gateway
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-index --no-deps /wheel/*.whl
USER 10001:10001
