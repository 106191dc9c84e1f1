#!/usr/bin/env bash
# Plans a scenario, renders its launch files, checks them and writes a report, for a pipeline to review and commit.
#
#   plan.sh SCENARIO TARGET FOLDER
#
# FOLDER gets plan.json, launch/ and report.html. Nothing in it changes unless every step has passed. The exit code is
# that of the step that failed: 2 bad input, 3 infeasible, 4 a check failed, 5 nothing found in time. CRDS may name a
# folder of your cluster's CRD schemas, against which manifests are then validated as well.
set -euo pipefail

scenario=${1:?the scenario file}
target=${2:?a target of cleave render}
folder=${3:?the folder to write}

mkdir -p "$folder"
work=$(mktemp -d "$folder/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

cleave plan "$scenario" --out "$work/plan.json" >&2
cleave render "$work/plan.json" --to "$target" --out "$work/launch" >&2
cleave check "$work/launch" --plan "$work/plan.json" --cluster "$scenario" ${CRDS:+--crds "$CRDS"} >&2
cleave report "$work/plan.json" --out "$work/report.html" --time-limit 30 >&2

# Launch files hold no times and no dates: equal files mean an equal deployment.
if [[ -d $folder/launch ]] && diff -rq "$folder/launch" "$work/launch" > /dev/null; then
  echo unchanged
  exit 0
fi
rm -rf "${folder:?}/launch"
mv "$work/plan.json" "$work/report.html" "$work/launch" "$folder/"
echo changed
