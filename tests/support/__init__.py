"""What several tests share: projects, made data, servers."""
