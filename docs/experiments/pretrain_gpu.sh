#!/usr/bin/env bash
# Pre-train on a folder of audio within a given time, and leave weights that are small enough to carry.
#
#     docs/experiments/pretrain_gpu.sh AUDIO OUT MINUTES [RECIPE] [key=value ...]
#
# The first call measures the rate of steps in a short trial and sets optim.steps to what fits into MINUTES, so
# that the schedules end when the time does. A call on an OUT that exists goes on with its run, for up to MINUTES
# more. Stopped early or not, it ends with OUT/carry: the encoder in half precision with its card, the recipe, the
# metrics and the run's record. RECIPE: docs/experiments/tiny_gpu.yaml unless given.
set -euo pipefail
(($# >= 3)) || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
audio=$1 out=$2 minutes=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
recipe=$here/tiny_gpu.yaml
if (($#)) && [[ $1 != *=* ]]; then recipe=$1; shift; fi
ajepa=${AJEPA:-$here/../../.venv/bin/ajepa}
end=$((SECONDS + $(printf '%.0f' "$(awk "BEGIN {print 60 * $minutes}")")))
mkdir -p "$out"

if [[ ! -s $out/steps ]]; then
    rm -rf "$out/trial"
    start=$SECONDS
    "$ajepa" pretrain "$recipe" --skip-broken --data.source "$audio" --run.out "$out/trial" "$@" \
        optim.steps="${TRIAL_STEPS:-200}" optim.warmup_steps=1 run.checkpoint_every=1000000 run.log_every=10 run.health_every=1000000
    # The last lines' rate, since the first steps compile and warm up; a twentieth is kept for the gauges and
    # for writing checkpoints.
    awk -F'"clips_per_s": ' -v seconds=$((end - SECONDS)) -v took=$((SECONDS - start)) \
        '{ split($2, rate, /[,}]/); rates[NR] = rate[1] }
         END { for (n = int(NR / 2) + 1; n <= NR; n++) { sum += rates[n]; count++ }
               print sum / count > "/dev/stderr"; print sum / count * seconds * 0.95 }' \
        "$out/trial/metrics.jsonl" >"$out/clips"
    batch=$(awk '/batch_size:/ { print $2; exit }' "$out/trial/recipe.yaml")
    awk -v batch="$batch" '{ steps = int($1 / batch); print (steps < 10 ? 10 : steps) }' "$out/clips" >"$out/steps"
    rm -rf "$out/trial" "$out/clips"
fi

# SIGINT lets the run finish its step and write a checkpoint; the next call goes on from there.
left=$((end - SECONDS))
timeout --signal=INT --kill-after=60 $((left > 60 ? left : 60)) \
    "$ajepa" pretrain "$recipe" --skip-broken --data.source "$audio" --run.out "$out/run" "$@" \
    optim.steps="$(cat "$out/steps")" || echo "stopped before its last step; the same command goes on" >&2

"$ajepa" export "$out/run" --out "$out/carry" --dtype float16
cp "$out/run"/{recipe.yaml,run.json,metrics.jsonl} "$out/carry/"
large=$(find "$out/carry" -type f -size +16M)
[[ -z $large ]] || { echo "above 16 MB: $large; take a smaller encoder" >&2; exit 1; }
ls -l "$out/carry"
