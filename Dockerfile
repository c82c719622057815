# One static binary for every service: `command:` says which one runs.
FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
ARG GOPROXY
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.release=$VERSION" -o /out/fairlead ./cmd/fairlead

FROM gcr.io/distroless/static:nonroot
COPY --from=build /out/fairlead /fairlead
# 8080: WebSockets and HTTP; 9090: metrics, health, version. Neither needs a right.
EXPOSE 8080 9090
USER nonroot
ENTRYPOINT ["/fairlead"]
CMD ["--help"]
