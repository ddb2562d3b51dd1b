#!/bin/bash
# sbatch recipes/accelerate/slurm.sh recipes/train_voc.py --config ... --output_dir ...
# SIGTERM comes two minutes before the time is over: the run saves a checkpoint and stops. Submit it again with
# --resume_from_checkpoint, and it goes on.
#SBATCH --job-name=msl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'exec accelerate launch \
    --config_file recipes/accelerate/several_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$0" --main_process_port 29500 "$@"' "$head" "$@"
