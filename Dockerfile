# tumorsim serve on a CPU, as a user without rights, offline. The volume holds the folder 'index', and
# 'index_files' beside it once scans are added; to change it, it must belong to user 10001:
#   docker build -t tumorsim .
#   docker run --rm --network none -v ./archive:/data tumorsim index info /data/index
#   docker run --rm -p 127.0.0.1:8765:8765 -v ./archive:/data -e TUMORSIM_TOKEN tumorsim
FROM python:3.12-slim-bookworm

RUN useradd --create-home --uid 10001 tumorsim
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints-ci.txt ./
COPY tumorsim ./tumorsim
ENV PIP_CONSTRAINT=constraints-ci.txt
# Versions: torch's is in the constraints, those of the others in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir '.[serve,dicom]'

# Nothing is downloaded from here on
ENV TUMORSIM_OFFLINE=1
USER 10001
VOLUME /data
EXPOSE 8765
ENTRYPOINT ["tumorsim"]
CMD ["serve", "/data/index", "--no-browser", "--host", "0.0.0.0", "--url", "http://127.0.0.1:8765"]
