// Package check reads the manifests of deploy/k8s the way a cluster would: they
// are rendered by kustomize and decoded into the types of Kubernetes, where an
// unknown field is an error. Its tests say what must be true of them. It is a
// module of its own so that nobody who builds Fairlead needs those types.
package check

import (
	"bytes"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Bundle is what one kustomization renders to, by kind.
type Bundle struct {
	Namespaces    []*corev1.Namespace
	ConfigMaps    []*corev1.ConfigMap
	Services      []*corev1.Service
	Deployments   []*appsv1.Deployment
	Budgets       []*policyv1.PodDisruptionBudget
	Autoscalers   []*autoscalingv2.HorizontalPodAutoscaler
	Policies      []*networkingv1.NetworkPolicy
	ScaledObjects []*ScaledObject
}

// Render runs kustomize on a directory.
func Render(dir string) ([]byte, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	return resources.AsYaml()
}

// Read decodes what Render returns. A kind that is not known here is an error:
// nothing is applied that nobody looked at.
func Read(rendered []byte) (*Bundle, error) {
	b := &Bundle{}
	for _, doc := range bytes.Split(rendered, []byte("\n---\n")) {
		if err := b.add(doc); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *Bundle) add(doc []byte) error {
	var what struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(doc, &what); err != nil {
		return fmt.Errorf("kind of %.60q: %w", doc, err)
	}
	switch what.APIVersion + " " + what.Kind {
	case "v1 Namespace":
		return into(&b.Namespaces, doc)
	case "v1 ConfigMap":
		return into(&b.ConfigMaps, doc)
	case "v1 Service":
		return into(&b.Services, doc)
	case "apps/v1 Deployment":
		return into(&b.Deployments, doc)
	case "policy/v1 PodDisruptionBudget":
		return into(&b.Budgets, doc)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return into(&b.Autoscalers, doc)
	case "networking.k8s.io/v1 NetworkPolicy":
		return into(&b.Policies, doc)
	case "keda.sh/v1alpha1 ScaledObject":
		return into(&b.ScaledObjects, doc)
	}
	return fmt.Errorf("%s %s: a kind that is not checked", what.APIVersion, what.Kind)
}

func into[T any](all *[]*T, doc []byte) error {
	one := new(T)
	if err := yaml.UnmarshalStrict(doc, one); err != nil {
		return fmt.Errorf("%.80q: %w", doc, err)
	}
	*all = append(*all, one)
	return nil
}
