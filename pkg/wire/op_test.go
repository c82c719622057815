package wire

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// minimalMembers are the members that an op requires, in their smallest form.
var minimalMembers = map[Op]string{
	OpHello: ``, OpRefresh: `,"token":"t"`, OpSubscribe: `,"topic":"a"`, OpUnsubscribe: `,"topic":"a"`,
	OpPublish: `,"topic":"a"`, OpBatch: `,"messages":[]`, OpHistory: `,"topic":"a","after":0`, OpGap: `,"topic":"a","after":0`,
	OpPresence: `,"topic":"a"`, OpPresenceJoin: `,"topic":"a"`, OpPresenceLeave: `,"topic":"a"`, OpPresenceUpdate: `,"topic":"a","data":1`,
	OpCursor: `,"topic":"a"`, OpGroupJoin: `,"group":"g"`, OpGroupLeave: `,"group":"g"`, OpGroupPublish: `,"group":"g","event":"e"`,
	OpGroupSend: `,"group":"g","event":"e","member":"c"`, OpGroupMembers: `,"group":"g"`, OpGroupMeta: `,"group":"g"`,
	OpCall: `,"method":"m"`, OpCancel: `,"ref":1`, OpReply: `,"ref":"r"`, OpPong: ``,
}

func TestOps(t *testing.T) {
	idFree := map[string]bool{"publish": true, "cursor": true, "reply": true, "cancel": true, "pong": true}
	seen := make(map[string]bool)
	for op := OpUnknown + 1; op < numOps; op++ {
		spec := Ops[op]
		if spec.Name == "" || seen[spec.Name] {
			t.Errorf("op %d is called %q: no name, or one that is taken", op, spec.Name)
		}
		seen[spec.Name] = true
		if ParseOp(spec.Name) != op || op.String() != spec.Name {
			t.Errorf("%s: ParseOp = %d, String = %q, want %d and the name", spec.Name, ParseOp(spec.Name), op.String(), op)
		}
		if spec.NeedsID == idFree[spec.Name] {
			t.Errorf("%s: NeedsID = %v, want %v", spec.Name, spec.NeedsID, !idFree[spec.Name])
		}
		members, ok := minimalMembers[op]
		if !ok {
			t.Errorf("%s: no minimal frame", spec.Name)
			continue
		}
		with := decodeOne(t, fmt.Appendf(nil, `{"op":%q,"id":5%s}`, spec.Name, members))
		if with.err != nil || with.Op != op || with.ID != 5 {
			t.Errorf("%s: minimal frame: op %s, id %d, error %v", spec.Name, with.Op, with.ID, with.err)
		}
		without := decodeOne(t, fmt.Appendf(nil, `{"op":%q%s}`, spec.Name, members))
		if (without.err == nil) != idFree[spec.Name] {
			t.Errorf("%s without id: error %v, want one: %v", spec.Name, without.err, !idFree[spec.Name])
		}
		if without.err != nil && without.err.Details["field"] != "id" {
			t.Errorf("%s without id: error %v does not name id", spec.Name, without.err)
		}
	}
	if len(seen) != 23 {
		t.Errorf("%d ops, the protocol has 23", len(seen))
	}
	if OpUnknown.String() != "" || Op(200).String() != "" || ParseOp("") != OpUnknown || ParseOp("nope") != OpUnknown {
		t.Error("an unknown op has a name")
	}
}

// Every member of the op table is known to the decoder under its own name.
func TestOpFields(t *testing.T) {
	for fld := field(0); fld < numFields; fld++ {
		name := fieldNames[fld]
		if name == "" {
			t.Errorf("field %d has no name", fld)
			continue
		}
		if got := fieldOf([]byte(name)); got >= numFields || fieldNames[got] != name {
			t.Errorf("fieldOf(%q) = %d", name, got)
		}
		used := false
		for _, spec := range Ops {
			for _, f := range append(append([]field(nil), spec.required...), spec.optional...) {
				used = used || f == fld
			}
		}
		if !used {
			t.Errorf("no op has the field %q (%d)", name, fld)
		}
	}
	for _, name := range []string{"", "Topic", "id", "op", "x"} {
		if got := fieldOf([]byte(name)); got != numFields {
			t.Errorf("fieldOf(%q) = %d, want none", name, got)
		}
	}
}

func TestImportsOnlyStandardLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	own := "github.com/fairlead-io/fairlead/pkg/wire"
	for _, path := range strings.Fields(string(out)) {
		if path != own {
			t.Errorf("pkg/wire depends on %s: workers and clients would too", path)
		}
	}
	if !strings.Contains(string(out), own) {
		t.Errorf("go list did not name %s: %s", own, out)
	}
}
