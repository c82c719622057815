package check

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Peer is one end of a connection: a pod, or with no labels at all something
// outside the cluster.
type Peer struct {
	Namespace string
	Labels    map[string]string
}

// Port is where a connection goes. Policies name it by either.
type Port struct {
	Name     string
	Number   int
	Protocol string
}

// Allows reports whether the policies let a connection through: both ends have
// to, and an end that no policy is about does.
func Allows(b *Bundle, from, to Peer, port Port) bool {
	return side(b, networkingv1.PolicyTypeEgress, from, to, port) && side(b, networkingv1.PolicyTypeIngress, to, from, port)
}

// side asks the policies that are about one end, self, in one direction.
func side(b *Bundle, direction networkingv1.PolicyType, self, other Peer, port Port) bool {
	about := false
	for _, p := range b.Policies {
		if self.Labels == nil || p.Namespace != self.Namespace || !selects(&p.Spec.PodSelector, self.Labels) || !slices.Contains(p.Spec.PolicyTypes, direction) {
			continue
		}
		about = true
		if direction == networkingv1.PolicyTypeEgress {
			for _, rule := range p.Spec.Egress {
				if peers(p.Namespace, rule.To, other) && ports(rule.Ports, port) {
					return true
				}
			}
			continue
		}
		for _, rule := range p.Spec.Ingress {
			if peers(p.Namespace, rule.From, other) && ports(rule.Ports, port) {
				return true
			}
		}
	}
	return !about
}

func peers(namespace string, all []networkingv1.NetworkPolicyPeer, other Peer) bool {
	if len(all) == 0 {
		return true
	}
	return slices.ContainsFunc(all, func(p networkingv1.NetworkPolicyPeer) bool {
		if other.Labels == nil || p.IPBlock != nil {
			return false
		}
		if p.NamespaceSelector == nil && other.Namespace != namespace {
			return false
		}
		if p.NamespaceSelector != nil && !selects(p.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": other.Namespace}) {
			return false
		}
		return p.PodSelector == nil || selects(p.PodSelector, other.Labels)
	})
}

func ports(all []networkingv1.NetworkPolicyPort, port Port) bool {
	return len(all) == 0 || slices.ContainsFunc(all, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && string(*p.Protocol) != port.Protocol {
			return false
		}
		return p.Port == nil || *p.Port == intstr.FromInt32(int32(port.Number)) || *p.Port == intstr.FromString(port.Name)
	})
}
