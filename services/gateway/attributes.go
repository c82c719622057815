package gateway

import (
	"maps"
	"sync"
)

// attributeIndex finds members by what their tokens say of them. A member
// without attributes is not in it. It knows neither connections nor NATS.
type attributeIndex[T comparable] struct {
	mu      sync.Mutex
	having  map[pair]map[T]struct{} // guarded by mu, like members
	members map[T]map[string]string
}

// pair is one thing that a token says.
type pair struct{ name, value string }

func newAttributeIndex[T comparable]() *attributeIndex[T] {
	return &attributeIndex[T]{having: map[pair]map[T]struct{}{}, members: map[T]map[string]string{}}
}

// set makes these the attributes of a member, in place of those it had. The map
// is kept: nobody changes it any more.
func (x *attributeIndex[T]) set(member T, attributes map[string]string) {
	x.setBehind(func() {}, member, attributes)
}

// setBehind is set behind first: whoever looks for members finds this one from
// the moment that first is done, and not before.
func (x *attributeIndex[T]) setBehind(first func(), member T, attributes map[string]string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	first()
	old := x.members[member]
	if maps.Equal(old, attributes) {
		return
	}
	for name, value := range old {
		if v, same := attributes[name]; !same || v != value {
			x.drop(pair{name, value}, member)
		}
	}
	if len(attributes) == 0 {
		delete(x.members, member)
		return
	}
	x.members[member] = attributes
	for name, value := range attributes {
		a := pair{name, value}
		having := x.having[a]
		if having == nil {
			having = make(map[T]struct{}, 1)
			x.having[a] = having
		}
		having[member] = struct{}{}
	}
}

// remove forgets a member.
func (x *attributeIndex[T]) remove(member T) { x.set(member, nil) }

// drop takes a member from those that have an attribute; mu is held.
func (x *attributeIndex[T]) drop(a pair, member T) {
	having := x.having[a]
	if delete(having, member); len(having) == 0 {
		delete(x.having, a)
	}
}

// match returns the members that have all these attributes. Criteria without
// any match nobody.
func (x *attributeIndex[T]) match(criteria map[string]string) []T {
	x.mu.Lock()
	defer x.mu.Unlock()
	var fewest map[T]struct{}
	for name, value := range criteria {
		having := x.having[pair{name, value}]
		if len(having) == 0 {
			return nil
		}
		if fewest == nil || len(having) < len(fewest) {
			fewest = having
		}
	}
	var found []T
	if len(criteria) == 1 {
		found = make([]T, 0, len(fewest))
	}
	for member := range fewest {
		if has(x.members[member], criteria) {
			found = append(found, member)
		}
	}
	return found
}

// has reports whether attributes hold all criteria.
func has(attributes, criteria map[string]string) bool {
	for name, value := range criteria {
		if v, ok := attributes[name]; !ok || v != value {
			return false
		}
	}
	return true
}

// size returns how many members have attributes.
func (x *attributeIndex[T]) size() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.members)
}
