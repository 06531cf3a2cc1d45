#!/bin/sh
# Runs on the head of the cluster that ray_cluster.yaml describes.
set -eu
sd2-clip encode s3://BUCKET/captions s3://BUCKET/embeddings \
    --checkpoint "$HOME/sd2.safetensors" --dtype fp16 \
    --engine ray --address auto --workers 16 --gpus 1
