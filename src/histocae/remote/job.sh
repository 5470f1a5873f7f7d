#!/usr/bin/env bash
# A job of histocae, written for one run. It starts what watches over the job, and where that ends without having said
# how the job ended, says so to the tracking server.
unset VIRTUAL_ENV PYTHONHOME
export PATH="$environment/bin:$PATH" PYTHONPATH="$project/src"
cd "$folder" || exit 1
echo $$ >job.pid
watch=("$environment/bin/python" -m histocae.tracking.jobs.supervisor)
keeper=
stop() { [ -z "$keeper" ] || kill "-$1" "$keeper" 2>/dev/null; }
trap 'stop TERM' TERM INT
trap 'stop USR1' USR1  # a scheduler's, when the time is nearly over
"${watch[@]}" "$folder/job.json" & keeper=$!
echo $keeper >watch.pid
code=0
while true; do
  wait $keeper
  code=$?
  kill -0 $keeper 2>/dev/null || break  # a signal that came to this shell ends the wait alone
done
[ ! -e job.json ] || "${watch[@]}" --bury "$folder/job.json"
exit $code
