# One image for everything: worker, producer, and the pages that the compose file reads.
#   docker build -t jobq .
#   docker run --rm jobq demo
FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/jobq
WORKDIR /src
# The dependencies are a layer of their own: a change of the code does not install them again.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*p['dependencies'], *(d for extra in ('local', 'metrics', 'web-tasks') for d in p['optional-dependencies'][extra]), sep='\n')" > requirements.txt \
    && /opt/jobq/bin/pip install --only-binary :all: -r requirements.txt
COPY README.md LICENSE ./
COPY jobqueue ./jobqueue
COPY workers ./workers
RUN /opt/jobq/bin/pip install --no-deps .

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home jobq && install -d -o jobq -g jobq /downloads
COPY --from=build /opt/jobq /opt/jobq
ENV PATH=/opt/jobq/bin:$PATH PYTHONUNBUFFERED=1 JOBQ_DOWNLOAD_DIR=/downloads
USER jobq
WORKDIR /home/jobq
ENTRYPOINT ["jobq"]
