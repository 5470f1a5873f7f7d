#!/usr/bin/env bash
# A job of histocae, written for one run. It starts what watches over the job, and where that ends without having said
# how the job ended, says so to the tracking server.
unset VIRTUAL_ENV PYTHONHOME
export PATH="$environment/bin:$PATH" PYTHONPATH="$project/src"
cd "$folder" || exit 1
echo $$ >job.pid
watch=("$environment/bin/python" -m histocae.tracking.jobs.supervisor)
supervisor=
stop() { [ -z "$supervisor" ] || kill "-$1" "$supervisor" 2>/dev/null; }
trap 'stop TERM' TERM INT
trap 'stop USR1' USR1  # a scheduler's, when the time is nearly over
"${watch[@]}" "$folder/job.json" & supervisor=$!
echo $supervisor >watch.pid
code=0
while true; do
  wait $supervisor
  code=$?
  kill -0 $supervisor 2>/dev/null || break  # a signal that came to this shell ends the wait alone
done
[ ! -e job.json ] || "${watch[@]}" --clean-up "$folder/job.json"
exit $code
