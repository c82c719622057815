package runner

// The attempts of a table that are due first: a binary heap in which each one
// knows its place. The table's mutex is held.

// arm puts an attempt where its due time belongs; one that ends is not due.
func (t *table) arm(a *attempt) {
	if a.ending {
		return
	}
	if a.at < 0 {
		a.at = len(t.heap)
		t.heap = append(t.heap, a)
	}
	if !t.up(a.at) {
		t.down(a.at)
	}
}

// disarm takes an attempt out.
func (t *table) disarm(a *attempt) {
	i, last := a.at, len(t.heap)-1
	if i < 0 {
		return
	}
	t.swap(i, last)
	t.heap[last] = nil
	t.heap = t.heap[:last]
	a.at = -1
	if i < last && !t.up(i) {
		t.down(i)
	}
}

func (t *table) less(i, j int) bool { return t.heap[i].due().Before(t.heap[j].due()) }

func (t *table) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].at, t.heap[j].at = i, j
}

func (t *table) up(i int) (moved bool) {
	for i > 0 {
		parent := (i - 1) / 2
		if !t.less(i, parent) {
			break
		}
		t.swap(i, parent)
		i, moved = parent, true
	}
	return moved
}

func (t *table) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(t.heap) {
			return
		}
		if child+1 < len(t.heap) && t.less(child+1, child) {
			child++
		}
		if !t.less(child, i) {
			return
		}
		t.swap(i, child)
		i = child
	}
}
