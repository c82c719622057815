package gateway

import (
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func TestConversation(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	ann, bob := r.dial(), r.dial()
	ann.hello(token(t, auth.Claims{User: "ann"}))
	bob.hello("")
	for _, p := range []*peer{ann, bob} {
		p.send(`{"op":"subscribe","id":2,"topic":"chat.lobby"}`)
		p.expect(`{"id":2,"ok":{"topic":"chat.lobby"}}`)
	}
	ann.send(`{"op":"publish","id":3,"topic":"chat.lobby","data":{"text":"hi"}}`)
	ann.expect(`{"id":3,"ok":{}}`)
	bob.expect(`{"topic":"chat.lobby","event":"message","data":{"text":"hi"},"from":"ann"}`)
	ann.expect(`{"topic":"chat.lobby","event":"message","data":{"text":"hi"},"from":"ann"}`)
	nc := r.bus()
	if err := nc.Publish("fl.topic.chat.lobby", []byte(`not json`)); err != nil {
		t.Fatal(err)
	}
	bob.expect(`{"topic":"chat.lobby","event":"message","text":"not json"}`)
}
