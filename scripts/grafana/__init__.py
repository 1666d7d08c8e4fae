"""The Grafana dashboards as code: `python -m scripts.grafana` writes `config/grafana/dashboards`."""
