# One image for the API and the workers: docker compose up, or docker build -t graftwork .
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /opt/graftwork \
    && /opt/graftwork/bin/pip install --no-cache-dir ".[postgres,s3]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 graftwork && install --directory --owner graftwork /data
COPY --from=build /opt/graftwork /opt/graftwork
ENV PATH=/opt/graftwork/bin:$PATH \
    GRAFTWORK_HOME=/data \
    GRAFTWORK_HOST=0.0.0.0
USER graftwork
VOLUME /data
EXPOSE 8000
CMD ["graft", "serve"]
