package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Class is an admission class: which messages of its topics are shed when.
type Class struct {
	Name string
	Shed []Pressure // the reasons for which its topics' messages are shed, in order
	// TopPublisher sheds the messages of a topic to which the clients of all
	// gateways publish as many or more a second; 0 is no bound.
	TopPublisher int
}

// Class returns the admission class of that name, nil where there is none. It
// does not allocate.
func (s *Set) Class(name string) *Class { return s.classes[name] }

func builtinClasses() []Class {
	return []Class{
		{Name: "background", Shed: []Pressure{Memory, PublishRate, Subscribers}},
		{Name: "critical", Shed: []Pressure{Memory}},
		{Name: "normal", Shed: []Pressure{Memory}},
	}
}

func readClasses(m *mapping, s *Set) {
	m.keys("classes", func(name string, n ast.Node, path string) {
		if !plainName(name, maxName) {
			m.r.problem(n, path, "the name of a class is 1-%d characters of [A-Za-z0-9_-]", maxName)
		}
		class := m.r.class(n, path)
		class.Name = name
		s.Classes = slices.DeleteFunc(s.Classes, func(c Class) bool { return c.Name == name })
		s.Classes = append(s.Classes, class)
	})
	slices.SortFunc(s.Classes, func(a, b Class) int { return cmp.Compare(a.Name, b.Name) })
}

// class reads what a class is: a list of reasons, or {reasons, clusterTopPublisher}.
func (r *reader) class(n ast.Node, path string) Class {
	class := Class{Shed: []Pressure{}}
	v := r.resolve(n, path)
	if v == nil {
		return class
	}
	var reasons []string
	if _, isMap := mapPairs(v); isMap {
		o := r.mapping(n, path, classObject)
		reasons = o.texts("reasons")
		if top := o.sect("clusterTopPublisher"); top != nil {
			class.TopPublisher = top.count("threshold")
		}
	} else if _, isList := v.(*ast.SequenceNode); isList {
		reasons = r.texts(n, path, classObject.field("reasons"))
	} else {
		r.problem(n, path, "%s; got %s", admissionObject.field("classes").allowed(), describe(v))
	}
	for _, text := range reasons {
		p := Pressure(slices.Index(pressureNames[:], text))
		if !slices.Contains(class.Shed, p) {
			class.Shed = append(class.Shed, p)
		}
	}
	slices.Sort(class.Shed)
	return class
}

func classNames(s *Set) []string {
	names := make([]string, len(s.Classes))
	for i, c := range s.Classes {
		names[i] = c.Name
	}
	return names
}

// The shapes of the canonical form: a class without more is its reasons.
type (
	classJSON struct {
		Reasons             []string         `json:"reasons"`
		ClusterTopPublisher topPublisherJSON `json:"clusterTopPublisher"`
	}
	topPublisherJSON struct {
		Threshold int `json:"threshold"`
	}
)

func (c *Class) json() any {
	reasons := make([]string, len(c.Shed))
	for i, p := range c.Shed {
		reasons[i] = p.String()
	}
	if c.TopPublisher == 0 {
		return reasons
	}
	return classJSON{reasons, topPublisherJSON{c.TopPublisher}}
}

// words says when messages of the class are shed.
func (c *Class) words() string {
	var when []string
	for _, p := range c.Shed {
		when = append(when, p.String())
	}
	words := "never shed"
	if len(when) > 0 {
		words = "shed under " + strings.Join(when, ", ")
	}
	if c.TopPublisher > 0 {
		words += fmt.Sprintf("; and while %d messages a second or more are published to the topic", c.TopPublisher)
	}
	return c.Name + ": " + words
}
