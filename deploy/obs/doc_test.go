// Package obs holds what the compose stack's profile obs mounts: the
// configuration of Prometheus, its alerts, Grafana's dashboard and the
// OpenTelemetry collector. Its tests hold these to the metrics that exist, to the
// page that explains them and to the services of compose.yaml.
package obs
