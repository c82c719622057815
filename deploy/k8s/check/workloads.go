package check

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selects reports whether a selector takes these labels; one that can't be
// used takes nothing.
func selects(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

// chosen are the Deployments whose pods a selector takes.
func chosen(b *Bundle, s *metav1.LabelSelector) (names []string) {
	for _, d := range b.Deployments {
		if selects(s, d.Spec.Template.Labels) {
			names = append(names, d.Name)
		}
	}
	return names
}

// Selectors: a Deployment takes its own pods and no other's, spreads those, and
// a Service leads to a port that its pods have.
func Selectors(b *Bundle) (s say) {
	for _, d := range b.Deployments {
		own := []string{d.Name}
		if got := chosen(b, d.Spec.Selector); !slices.Equal(got, own) {
			s.f("Deployment %s takes the pods of %v", d.Name, got)
		}
		if len(d.Spec.Template.Spec.TopologySpreadConstraints) == 0 {
			s.f("Deployment %s is not spread", d.Name)
		}
		for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
			if got := chosen(b, c.LabelSelector); !slices.Equal(got, own) {
				s.f("Deployment %s spreads the pods of %v", d.Name, got)
			}
		}
	}
	for _, service := range b.Services {
		names := chosen(b, &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
		if len(names) != 1 {
			s.f("Service %s leads to %v", service.Name, names)
			continue
		}
		for _, port := range service.Spec.Ports {
			if !hasPort(container(deployment(b, names[0])), port.TargetPort.String()) {
				s.f("Service %s: %s has no port %s", service.Name, names[0], port.TargetPort.String())
			}
		}
	}
	return s
}

func deployment(b *Bundle, name string) *appsv1.Deployment {
	for _, d := range b.Deployments {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// Budgets: the pods of each Deployment have one budget, which lets one of them
// go and not all.
func Budgets(b *Bundle) (s say) {
	of := map[string]int{}
	for _, budget := range b.Budgets {
		names := chosen(b, budget.Spec.Selector)
		if len(names) != 1 {
			s.f("budget %s is of %v", budget.Name, names)
			continue
		}
		of[names[0]]++
		if m := budget.Spec.MaxUnavailable; m == nil || m.String() != "1" {
			s.f("budget %s: maxUnavailable %v", budget.Name, m)
		}
	}
	for _, d := range b.Deployments {
		if of[d.Name] != 1 {
			s.f("%s has %d budgets", d.Name, of[d.Name])
		}
		if least := replicas(b, d); least < 2 {
			s.f("%s runs as few as %d times", d.Name, least)
		}
		if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable.IntValue() != 0 {
			s.f("%s: a rollout takes one away before the next one is there", d.Name)
		}
	}
	return s
}

// scaler is what decides how many of a Deployment there are.
type scaler struct {
	kind, target string
	least, most  int32
	slowDown     bool // few go at a time
}

func scalers(b *Bundle) (all []scaler) {
	for _, h := range b.Autoscalers {
		one := scaler{kind: "HorizontalPodAutoscaler", target: h.Spec.ScaleTargetRef.Kind + " " + h.Spec.ScaleTargetRef.Name, least: 1, most: h.Spec.MaxReplicas}
		if h.Spec.MinReplicas != nil {
			one.least = *h.Spec.MinReplicas
		}
		if behavior := h.Spec.Behavior; behavior != nil && behavior.ScaleDown != nil {
			one.slowDown = len(behavior.ScaleDown.Policies) == 1 && behavior.ScaleDown.Policies[0].Value == 1
		}
		all = append(all, one)
	}
	for _, o := range b.ScaledObjects {
		ref, behavior := o.Spec.ScaleTargetRef, o.Spec.Advanced.HorizontalPodAutoscalerConfig.Behavior
		one := scaler{kind: "ScaledObject", target: ref.Kind + " " + ref.Name, least: o.Spec.MinReplicaCount, most: o.Spec.MaxReplicaCount}
		if behavior != nil && behavior.ScaleDown != nil {
			one.slowDown = len(behavior.ScaleDown.Policies) == 1 && behavior.ScaleDown.Policies[0].Value == 1
		}
		all = append(all, one)
	}
	return all
}

func replicas(b *Bundle, d *appsv1.Deployment) int32 {
	for _, one := range scalers(b) {
		if one.target == "Deployment "+d.Name {
			return one.least
		}
	}
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// Scaling: what scales has a target that is there, alone decides about it, and
// takes few away at a time.
func Scaling(b *Bundle) (s say) {
	of := map[string]int{}
	for _, one := range scalers(b) {
		of[one.target]++
		if one.least >= one.most || !one.slowDown {
			s.f("%s of %s: from %d to %d, slowly down: %v", one.kind, one.target, one.least, one.most, one.slowDown)
		}
	}
	for _, d := range b.Deployments {
		target := "Deployment " + d.Name
		if of[target] > 1 || of[target] == 1 && d.Spec.Replicas != nil {
			s.f("%s: more than one says how many there are", d.Name)
		}
		delete(of, target)
	}
	for target := range of {
		s.f("%s is scaled and not there", target)
	}
	return s
}

// Connections: KEDA adds a gateway well before one refuses connections, by a
// metric that there is, and takes none away because Prometheus knows nothing.
func Connections(b *Bundle, metrics func(name string) bool) (s say) {
	for _, o := range b.ScaledObjects {
		limit := 0
		if d := deployment(b, o.Spec.ScaleTargetRef.Name); d != nil {
			value, _ := env(b, container(d), "FAIRLEAD_LIMIT_CONNECTIONS")
			limit, _ = strconv.Atoi(value) // none: 0, which no threshold fits
		}
		for _, t := range o.Spec.Triggers {
			if t.Type != "prometheus" {
				continue
			}
			threshold, _ := strconv.Atoi(t.Metadata["threshold"])
			if threshold < 1 || 2*threshold > limit {
				s.f("threshold %d of %d connections", threshold, limit)
			}
			if !metrics(t.Metadata["query"]) {
				s.f("query %s: no such metric", t.Metadata["query"])
			}
			if t.Metadata["ignoreNullValues"] != "false" {
				s.f("query %s: no answer counts as 0", t.Metadata["query"])
			}
		}
	}
	return s
}

// Secrets are the secrets that pods name, with their keys, as name/key.
func Secrets(b *Bundle) (names []string) {
	for _, d := range b.Deployments {
		for _, v := range container(d).Env {
			if from := v.ValueFrom; from != nil && from.SecretKeyRef != nil {
				names = append(names, secretKey(from.SecretKeyRef))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func secretKey(ref *corev1.SecretKeySelector) string { return ref.Name + "/" + ref.Key }
