# A Beam worker that can run tapstate's shards. Build it from the repository's root: docs/cluster.md.
FROM apache/beam_python3.11_sdk:2.77.0

COPY . /src
WORKDIR /src
RUN pip install --no-cache-dir -c constraints.txt '.[pipeline,dask]' && rm -rf /src

# One shard at a time uses one core; several processes use several.
ENV OMP_NUM_THREADS=1
WORKDIR /
