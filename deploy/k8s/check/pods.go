package check

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// say collects what is wrong; each check returns all that it found.
type say []string

func (s *say) f(format string, args ...any) { *s = append(*s, fmt.Sprintf(format, args...)) }

// container is the only one of a Deployment's pods.
func container(d *appsv1.Deployment) corev1.Container {
	if all := d.Spec.Template.Spec.Containers; len(all) == 1 {
		return all[0]
	}
	return corev1.Container{}
}

// env is a variable's value as it is written; ok is false where there is none.
func env(b *Bundle, c corev1.Container, name string) (value string, ok bool) {
	for _, v := range c.Env {
		if v.Name == name {
			return v.Value, true
		}
	}
	for _, from := range c.EnvFrom {
		if m := configMap(b, from.ConfigMapRef); m != nil {
			if value, ok := m.Data[name]; ok {
				return value, true
			}
		}
	}
	return "", false
}

func configMap(b *Bundle, ref *corev1.ConfigMapEnvSource) *corev1.ConfigMap {
	for _, m := range b.ConfigMaps {
		if ref != nil && m.Name == ref.Name {
			return m
		}
	}
	return nil
}

// Commands: each Deployment runs the service of its name, as the NATS user of
// that name, with that user's password; all services are there.
func Commands(b *Bundle, services []string) (s say) {
	left := slices.Clone(services)
	for _, d := range b.Deployments {
		c := container(d)
		if !slices.Equal(c.Args, []string{"run", d.Name}) {
			s.f("%s: args %v", d.Name, c.Args)
		}
		if i := slices.Index(left, d.Name); i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
		if url, _ := env(b, c, "FAIRLEAD_NATS_URL"); !strings.HasPrefix(url, "nats://"+d.Name+":$(NATS_PASSWORD)@") {
			s.f("%s: FAIRLEAD_NATS_URL %q is not of its own user", d.Name, url)
		}
		for _, v := range c.Env {
			if v.Name == "NATS_PASSWORD" && (v.ValueFrom == nil || v.ValueFrom.SecretKeyRef == nil || v.ValueFrom.SecretKeyRef.Key != d.Name) {
				s.f("%s: the password is not of its own user", d.Name)
			}
		}
	}
	for _, name := range left {
		s.f("%s: no Deployment", name)
	}
	return s
}

// Probes: alive is what /healthz says, ready what /readyz says, on a port that
// the container has.
func Probes(b *Bundle) (s say) {
	for _, d := range b.Deployments {
		c := container(d)
		for _, p := range []struct {
			name, path string
			probe      *corev1.Probe
		}{{"liveness", "/healthz", c.LivenessProbe}, {"readiness", "/readyz", c.ReadinessProbe}} {
			switch {
			case p.probe == nil || p.probe.HTTPGet == nil:
				s.f("%s: no %s probe", d.Name, p.name)
			case p.probe.HTTPGet.Path != p.path:
				s.f("%s: the %s probe asks %s", d.Name, p.name, p.probe.HTTPGet.Path)
			case !hasPort(c, p.probe.HTTPGet.Port.String()):
				s.f("%s: the %s probe's port %s is not the container's", d.Name, p.name, p.probe.HTTPGet.Port.String())
			}
		}
	}
	return s
}

func hasPort(c corev1.Container, name string) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
}

// goodbye is what a process takes at most to end, once no client is left: the
// longest of the services' drains.
const goodbye = 10 * time.Second

// Grace: nobody is killed while it drains. A gateway's preStop keeps it in
// service until the nodes' proxies have heard that it goes.
func Grace(b *Bundle, defaults map[string]string) (s say) {
	for _, d := range b.Deployments {
		c, needs := container(d), goodbye
		if d.Name == "gateway" {
			for _, name := range []string{"FAIRLEAD_DRAIN_DELAY", "FAIRLEAD_DRAIN_WINDOW"} {
				value, ok := env(b, c, name)
				if !ok {
					value = defaults[name]
				}
				length, err := time.ParseDuration(value)
				if err != nil {
					s.f("%s: %s: %v", d.Name, name, err)
				}
				needs += length
			}
			if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil {
				s.f("%s: no preStop", d.Name)
			} else {
				needs += time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
			}
		}
		grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
		if grace < needs+5*time.Second {
			s.f("%s: %v of grace for %v", d.Name, grace, needs)
		}
	}
	return s
}

var reference = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// Variables: each is one that Fairlead, Go or OpenTelemetry knows; what a value
// refers to stands before it, as Kubernetes wants it; what is mounted exists.
func Variables(b *Bundle, known map[string]string) (s say) {
	for _, d := range b.Deployments {
		c, before := container(d), map[string]bool{}
		var names []string
		for _, from := range c.EnvFrom {
			m := configMap(b, from.ConfigMapRef)
			if m == nil {
				s.f("%s: envFrom a ConfigMap that is not there", d.Name)
				continue
			}
			for name := range m.Data {
				names = append(names, name)
			}
		}
		for _, v := range c.Env {
			for _, m := range reference.FindAllStringSubmatch(v.Value, -1) {
				if !before[m[1]] {
					s.f("%s: %s refers to %s, which does not stand before it", d.Name, v.Name, m[1])
				}
			}
			before[v.Name] = true
			names = append(names, v.Name)
		}
		for _, name := range names {
			if _, ok := known[name]; !ok && name != "NATS_PASSWORD" && name != "GOMEMLIMIT" && !strings.HasPrefix(name, "OTEL_") {
				s.f("%s: %s is in no documentation", d.Name, name)
			}
		}
		if file, ok := env(b, c, "FAIRLEAD_TOPICS_FILE"); ok && !mounted(b, d, file) {
			s.f("%s: %s is not mounted", d.Name, file)
		}
	}
	return s
}

// mounted reports whether a file of a ConfigMap is at a path of the container.
func mounted(b *Bundle, d *appsv1.Deployment, path string) bool {
	for _, mount := range container(d).VolumeMounts {
		name, inside := strings.CutPrefix(path, mount.MountPath+"/")
		for _, v := range d.Spec.Template.Spec.Volumes {
			if !inside || v.Name != mount.Name || v.ConfigMap == nil {
				continue
			}
			for _, m := range b.ConfigMaps {
				if _, ok := m.Data[name]; ok && m.Name == v.ConfigMap.Name {
					return true
				}
			}
		}
	}
	return false
}

// Privileges: what the namespace's profile "restricted" wants, and no more than
// a static binary needs.
func Privileges(b *Bundle) (s say) {
	for _, d := range b.Deployments {
		pod, c := d.Spec.Template.Spec, container(d)
		p, q := pod.SecurityContext, c.SecurityContext
		yes := func(v *bool) bool { return v != nil && *v }
		no := func(v *bool) bool { return v != nil && !*v }
		for what, ok := range map[string]bool{
			"may be root":                           p != nil && yes(p.RunAsNonRoot) && p.RunAsUser != nil && *p.RunAsUser > 0,
			"has no seccomp profile":                p != nil && p.SeccompProfile != nil && p.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
			"may gain privileges":                   q != nil && no(q.AllowPrivilegeEscalation),
			"may write its image":                   q != nil && yes(q.ReadOnlyRootFilesystem),
			"has capabilities":                      q != nil && q.Capabilities != nil && slices.Contains(q.Capabilities.Drop, "ALL") && len(q.Capabilities.Add) == 0,
			"has a token of Kubernetes":             no(pod.AutomountServiceAccountToken),
			"has variables of Services beside ours": no(pod.EnableServiceLinks),
			"shares the node's network":             !pod.HostNetwork && !pod.HostPID && !pod.HostIPC,
		} {
			if !ok {
				s.f("%s: %s", d.Name, what)
			}
		}
	}
	for _, n := range b.Namespaces {
		if n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
			s.f("namespace %s: restricts nothing", n.Name)
		}
	}
	return s
}

// Memory: GOMEMLIMIT is about nine tenths of the container's limit, as
// operations.md asks, so that a gateway sheds load before it is killed.
func Memory(b *Bundle) (s say) {
	for _, d := range b.Deployments {
		c := container(d)
		limit := c.Resources.Limits.Memory().Value()
		value, _ := env(b, c, "GOMEMLIMIT")
		soft, err := resource.ParseQuantity(strings.TrimSuffix(value, "B")) // Go writes MiB where Kubernetes writes Mi
		if err != nil || limit == 0 || c.Resources.Requests.Memory().Value() == 0 || c.Resources.Requests.Cpu().IsZero() {
			s.f("%s: GOMEMLIMIT %q of limit %d", d.Name, value, limit)
			continue
		}
		if share := float64(soft.Value()) / float64(limit); share < 0.87 || share > 0.92 {
			s.f("%s: GOMEMLIMIT is %.2f of the limit", d.Name, share)
		}
	}
	return s
}
