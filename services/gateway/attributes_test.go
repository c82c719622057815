package gateway

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever happens to members, the index finds those that a look at each of them
// finds.
func TestAttributeIndexFindsWhatAScanFinds(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 17))
		x, naive := newAttributeIndex[int](), map[int]map[string]string{}
		some := func(most int) map[string]string {
			m := map[string]string{}
			for range random.IntN(most + 1) {
				m[fmt.Sprint("a", random.IntN(4))] = fmt.Sprint(random.IntN(3))
			}
			return m
		}
		for step := range 400 {
			member := random.IntN(30)
			switch random.IntN(4) {
			case 0:
				x.remove(member)
				delete(naive, member)
			default:
				attributes := some(4)
				x.set(member, attributes)
				naive[member] = attributes
			}
			criteria := some(3)
			got := x.match(criteria)
			slices.Sort(got)
			var want []int
			for member, attributes := range naive {
				all := len(criteria) > 0
				for name, value := range criteria {
					v, ok := attributes[name]
					all = all && ok && v == value
				}
				if all {
					want = append(want, member)
				}
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: %v of %v: got %v, want %v", seed, step, criteria, naive, got, want)
			}
		}
		for member := range naive {
			x.remove(member)
		}
		if len(x.having)+len(x.members) != 0 {
			t.Fatalf("seed %d: nobody is left, and the index holds %v %v", seed, x.having, x.members)
		}
	}
}

func TestAttributeIndexHoldsNothingForMembersWithoutAttributes(t *testing.T) {
	x := newAttributeIndex[int]()
	x.set(1, nil)
	x.set(2, map[string]string{})
	x.set(3, map[string]string{"role": "admin"})
	x.set(3, nil)
	if len(x.having)+len(x.members) != 0 {
		t.Errorf("got %v %v, want nothing", x.having, x.members)
	}
}

// One attribute that many share must not make the match of a rare one slow.
func BenchmarkAttributeMatch(b *testing.B) {
	x := newAttributeIndex[int]()
	for i := range 100_000 {
		attributes := map[string]string{"plan": "free", "region": fmt.Sprint(i % 10)}
		if i%10_000 == 0 {
			attributes["role"] = "admin"
		}
		x.set(i, attributes)
	}
	for _, criteria := range []map[string]string{{"role": "admin", "plan": "free"}, {"region": "3"}, {"plan": "free", "region": "3"}} {
		b.Run(fmt.Sprint(slices.Sorted(maps.Keys(criteria))), func(b *testing.B) {
			for b.Loop() {
				if len(x.match(criteria)) == 0 {
					b.Fatal("nobody")
				}
			}
		})
	}
}
