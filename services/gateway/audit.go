package gateway

import (
	"context"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// audit compares what the gateway has with what is stored, and puts right what
// differs.
func (r *roster) audit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auditing || !r.g.dependencies.presence.healthy() {
		return // where it is not under way, it will be asked for again
	}
	r.auditing = r.g.mender.spawn(func(ctx context.Context) {
		defer func() {
			r.mu.Lock()
			r.auditing = false
			r.mu.Unlock()
		}()
		for _, registry := range [...]bool{false, true} {
			if err := r.compare(ctx, registry); err != nil {
				return // it will be asked for again
			}
		}
	})
}

// compare audits the sections of topics, or those of the registry.
func (r *roster) compare(ctx context.Context, registry bool) error {
	r.mu.Lock()
	epoch := r.g.lease.current()
	var all []wire.PresenceSection
	for _, s := range r.sections {
		if (s.topic == "") == registry && s.flying == 0 && s.stored == s.version && len(s.conns) > 0 {
			all = append(all, wire.PresenceSection{Topic: s.topic, User: s.user, Gateway: r.g.id, Epoch: epoch, Version: s.stored})
		}
	}
	r.mu.Unlock()
	parts := 1 // a power of two: so the service keeps them
	for parts < auditParts && len(all) > parts*auditPart {
		parts *= 2
	}
	byPart := make([][]wire.PresenceSection, parts)
	for _, p := range all {
		part := wire.SectionHash(p.Topic, p.User, "", 0) % uint64(parts)
		byPart[part] = append(byPart[part], p)
	}
	for part, listed := range byPart {
		bounded, cancel := context.WithTimeout(ctx, joinWait)
		found, err := callService[wire.PresenceAudit, wire.PresenceAudited](bounded, r.g.dependencies.presence, r.g.requests, "audit",
			wire.PresenceAudit{Gateway: r.g.id, Registry: registry, Part: part, Parts: parts, Sections: listed})
		cancel()
		if err != nil {
			return err
		}
		r.mend(found)
	}
	return nil
}

// mend puts again what is missing, and puts nothing where there should be nothing.
func (r *roster) mend(found wire.PresenceAudited) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range found.Missing {
		if s := r.sections[sectionKey{p.Topic, p.User}]; s != nil {
			r.version = max(r.version, p.Version)
			r.touch(s)
		}
	}
	for _, p := range found.Ghosts {
		key := sectionKey{p.Topic, p.User}
		s := r.sections[key]
		if s == nil {
			s = &section{topic: p.Topic, user: p.User}
			r.sections[key] = s
		}
		r.version = max(r.version, p.Version)
		r.touch(s)
	}
	r.flush()
}
