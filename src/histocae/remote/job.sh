#!/usr/bin/env bash
# A job of histocae; written for one run, in the job's folder there, which is $folder. It starts what watches over the
# job, and says so to the tracking server where even that was killed.
cd "$folder" || exit 1
unset VIRTUAL_ENV PYTHONHOME
export PATH="$environment/bin:$PATH" PYTHONPATH="$project/src"
watch=("$environment/bin/python" -m histocae.remote.job)
"${watch[@]}" "$folder/job.json" & keeper=$!
trap 'kill -TERM $keeper 2>/dev/null' TERM INT
trap 'kill -USR1 $keeper 2>/dev/null' USR1  # a scheduler's, when the time is nearly over
code=0
while true; do
  wait $keeper
  code=$?
  kill -0 $keeper 2>/dev/null || break  # a signal that came to this shell ends the wait alone
done
[ $code -ne 137 ] || "${watch[@]}" --bury "$folder/job.json"
exit $code
