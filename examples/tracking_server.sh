#!/usr/bin/env bash
# Starts a tracking server that a laboratory shares: runs in a database, artifacts in a folder or bucket, users with
# passwords. In the activated environment:
#
#   examples/tracking_server.sh FOLDER [options of mlflow server]
#
# FOLDER keeps what the server keeps. The first start makes the user admin, with the password of
# MLFLOW_AUTH_ADMIN_PASSWORD or else one that is drawn and written to FOLDER/admin_password. Options that matter:
# --host 0.0.0.0 --allowed-hosts mlflow.lab.example (reached from other machines, under that name), --port 5000,
# --artifacts-destination s3://bucket/folder, --backend-store-uri postgresql://... (for more than a few users).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [options of mlflow server]" >&2; exit 2; }
umask 077  # the folder holds secrets
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
draw() { python -c 'import secrets; print(secrets.token_urlsafe(24))'; }
[ -s "$folder/secret_key" ] || draw >"$folder/secret_key"
if [ -z "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" ] && [ ! -e "$folder/auth.db" ]; then
  draw >"$folder/admin_password"
  MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$folder/admin_password")
  echo "user admin; its password is in $folder/admin_password" >&2
fi
if [ ! -s "$folder/auth.ini" ]; then
  # EDIT: everybody of the laboratory logs into the same experiments.
  # Passwords are checked again after a minute: a check takes longer than the rest of a call.
  {
    printf '[mlflow]\ndefault_permission = EDIT\nauth_cache_ttl_seconds = 60\n'
    printf 'database_uri = sqlite:///%s/auth.db\n' "$folder"
  } >"$folder/auth.ini"
fi
export MLFLOW_AUTH_CONFIG_PATH=$folder/auth.ini MLFLOW_AUTH_ADMIN_USERNAME=admin
[ -z "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" ] || export MLFLOW_AUTH_ADMIN_PASSWORD
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$folder/secret_key")
export MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_DISABLE_TELEMETRY=true
unset MLFLOW_TRACKING_URI  # it is the server
cd "$folder"
exec mlflow server --app-name basic-auth --backend-store-uri "sqlite:///$folder/mlflow.db" \
  --artifacts-destination "$folder/artifacts" "$@"
