package check

const (
	part   = "app.kubernetes.io/name"
	worker = "fairlead.io/nats-client" // the label of whoever may come to NATS, wherever it runs
)

// Network: every part reaches what it needs, and nothing else.
func Network(b *Bundle) (s say) {
	var (
		http     = Port{"http", 8080, "TCP"}
		https    = Port{"https", 443, "TCP"}
		admin    = Port{"admin", 9090, "TCP"}
		nats     = Port{"nats", 4222, "TCP"}
		routes   = Port{"cluster", 6222, "TCP"}
		exporter = Port{"prom-metrics", 7777, "TCP"}
		postgres = Port{"", 5432, "TCP"}
		dns      = Port{"dns", 53, "UDP"}
		otlp     = Port{"otlp", 4318, "TCP"}

		broker   = Peer{"fairlead", map[string]string{part: "nats"}}
		anywhere = Peer{}
		resolver = Peer{"kube-system", map[string]string{"k8s-app": "kube-dns"}}
		ingress  = Peer{"ingress", map[string]string{part: "ingress"}}
		watcher  = Peer{"monitoring", map[string]string{part: "prometheus"}}
		stranger = Peer{"shop", map[string]string{part: "shop"}}
		ours     = Peer{"shop", map[string]string{part: "shop", worker: "true"}}
	)

	expect := func(what string, from, to Peer, port Port, want bool) {
		if Allows(b, from, to, port) != want {
			s.f("%s on %d: %v, want %v", what, port.Number, !want, want)
		}
	}
	for _, d := range b.Deployments {
		pod := Peer{d.Namespace, d.Spec.Template.Labels}
		expect(d.Name+" to NATS", pod, broker, nats, true)
		expect(d.Name+" to the routes of NATS", pod, broker, routes, false)
		expect(d.Name+" to the resolver", pod, resolver, dns, true)
		expect(d.Name+" to the collector", pod, watcher, otlp, true)
		expect(d.Name+" to Postgres", pod, anywhere, postgres, d.Name == "tasks" || d.Name == "replay")
		expect(d.Name+" to the world", pod, anywhere, https, false)
		expect("clients to "+d.Name, ingress, pod, http, d.Name == "gateway")
		expect("the world to "+d.Name, anywhere, pod, http, d.Name == "gateway")
		expect("Prometheus to "+d.Name, watcher, pod, admin, true)
		expect("others to the admin port of "+d.Name, stranger, pod, admin, false)
		expect("NATS to "+d.Name, broker, pod, admin, false)
	}
	expect("workers to NATS", ours, broker, nats, true)
	expect("others to NATS", stranger, broker, nats, false)
	expect("the world to NATS", anywhere, broker, nats, false)
	expect("NATS to NATS", broker, broker, routes, true)
	expect("workers to the routes of NATS", ours, broker, routes, false)
	expect("NATS to the resolver", broker, resolver, dns, true)
	expect("Prometheus to NATS", watcher, broker, exporter, true)
	return s
}
