package wire

// These cross processes as JSON where gateways tell one another, and whoever
// asks, which topics are published to most.
type (
	// TopicRate is how much is published to a topic by all gateways.
	TopicRate struct {
		Topic       string  `json:"topic"`
		Messages    float64 `json:"messagesPerSec"`
		Bytes       float64 `json:"bytesPerSec"`
		Subscribers int64   `json:"subscribers"`
	}

	// TopicRates is what one gateway shares, on [Namespace.TopicRates].
	TopicRates struct {
		Gateway string      `json:"gateway"`
		At      int64       `json:"at"` // epoch ms; hints at how old it is, for people
		Topics  []TopicRate `json:"topics"`
		Leaving bool        `json:"leaving,omitempty"`
	}

	// TopRequest asks for the topics that are published to most.
	TopRequest struct {
		Limit int `json:"limit,omitempty"` // 20 when 0, at most 100
	}

	// Top answers a [TopRequest].
	Top struct {
		Topics   []TopicRate `json:"topics"`
		Gateways int         `json:"gateways"` // that took part
	}

	// TopicRequest names a topic.
	TopicRequest struct {
		Topic string `json:"topic"`
	}

	// TopicSubscribers answers how many connections are subscribed to a topic.
	TopicSubscribers struct {
		Topic       string `json:"topic"`
		Subscribers int64  `json:"subscribers"`
	}
)

// TopicRates returns the subject on which gateways share their rates.
func (n Namespace) TopicRates() string { return string(n) + ".rates" }
