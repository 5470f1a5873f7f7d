#!/usr/bin/env bash
# A job of histocae, written for one run. It starts the job's supervisor. Where the supervisor ends without reporting
# how the job ended, it starts the supervisor again to clean up and report that.
unset VIRTUAL_ENV PYTHONHOME
export PATH="$environment/bin:$PATH" PYTHONPATH="$project/src"
cd "$folder" || exit 1
echo $$ >job.pid
supervise=("$environment/bin/python" -m histocae.tracking.jobs.supervisor)
supervisor=
stop() { [ -z "$supervisor" ] || kill "-$1" "$supervisor" 2>/dev/null; }
trap 'stop TERM' TERM INT
trap 'stop USR1' USR1  # from a scheduler, when the job's time is nearly over
"${supervise[@]}" "$folder/job.json" & supervisor=$!
echo $supervisor >supervisor.pid
code=0
while true; do
  wait $supervisor
  code=$?
  kill -0 $supervisor 2>/dev/null || break  # a signal to this shell ends `wait` but not the supervisor
done
[ ! -e job.json ] || "${supervise[@]}" --clean-up "$folder/job.json"
exit $code
