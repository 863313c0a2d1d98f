module alertmanager-tests

go 1.25.0

require github.com/prometheus/alertmanager v0.32.0
