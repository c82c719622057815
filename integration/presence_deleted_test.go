package integration

import (
	"testing"
)

// An operator deletes the buckets under everybody. They are made anew, gateways
// say everything again, and observers, whose revisions were far ahead of the new
// bucket's, see what changes from then on.
func TestDeletedBucketsAreMadeAnew(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 2, 2)
	const topic = "now.deleted"
	eye := watching(t, s.as(1, "eye"), topic)
	eye.sees()
	ann := joining(t, s.as(0, "ann"), topic, `1`)
	bob := joining(t, s.as(0, "bob"), topic, `1`)
	eye.sees("ann", "bob")
	js, err := s.worker().JetStream()
	must(t, err)
	for _, bucket := range []string{"fl_presence", "fl_gateways", "fl_connections"} {
		must(t, js.DeleteKeyValue(bucket))
	}
	eventually(t, "the buckets are there again", func() (any, bool) {
		for _, bucket := range []string{"fl_presence", "fl_gateways", "fl_connections"} {
			if _, err := js.KeyValue(bucket); err != nil {
				return err, false
			}
		}
		return nil, true
	})
	eventually(t, "the service has both again", func() (any, bool) {
		got, _ := svc(t, s.worker(), "count", `{"topic":"`+topic+`"}`)
		return got, got == `{"count":2}`
	})
	eventually(t, "the registry has both again", func() (any, bool) {
		got, _ := svc(t, s.worker(), "online", `{"users":["ann","bob"]}`)
		return got, got == `{"online":{"ann":true,"bob":true}}`
	})
	must(t, bob.sub.Unsubscribe(within(t)))
	eye.sees("ann")
	_ = ann
	cid := joining(t, s.as(0, "cid"), topic, `1`)
	eye.sees("ann", "cid")
	cid.sees("ann", "cid")
}
