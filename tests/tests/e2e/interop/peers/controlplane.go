// A management server on go-control-plane's snapshot cache that does what it is told: each line of
// standard input is a command, a word and a JSON object, and is answered with one line of JSON.
//
// Every client gets the same snapshot. All that goes over a stream, either way, is an event, seen
// below the library: messages are as they came, before it fills anything in.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusters "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpoints "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensions "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listeners "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routes "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtimes "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secrets "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	sotw "github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// A snapshot of 20 MB goes out in one response.
const messageMax = 64 << 20

// The only client that the cache knows: all of them.
type everyone struct{}

func (everyone) ID(*core.Node) string { return "" }

type server struct {
	log       eventLog
	snapshots cache.SnapshotCache
	// Repeats what a client refused at once, as the library does by itself.
	repeats bool
	running *grpc.Server
	// What there is to be, by type, and what of it there is.
	versions  map[string]string
	resources map[string][]types.Resource
	held      map[string]bool
	snapshot  cache.Snapshot
}

func main() {
	s := &server{
		versions:  map[string]string{},
		resources: map[string][]types.Resource{},
		held:      map[string]bool{},
	}
	s.log.changed = sync.NewCond(&s.log.lock)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		answer := map[string]any{}
		if value, err := s.answer(strings.TrimSpace(line)); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["value"] = value
		}
		text, err := json.Marshal(answer)
		if err != nil {
			text = []byte(`{"error": "json"}`)
		}
		fmt.Printf("%s\n", text)
	}
}

func (s *server) answer(line string) (any, error) {
	word, text, _ := strings.Cut(line, " ")
	if text == "" {
		text = "{}"
	}
	switch word {
	case "start":
		return s.start(text)
	case "stop":
		return s.stop()
	case "set":
		return s.set(text)
	case "hold":
		return s.hold(text, true)
	case "release":
		return s.hold(text, false)
	case "events":
		return s.events(text)
	}
	return nil, fmt.Errorf("no command %s", word)
}

// start {"address", "certificate", "key", "ordered", "repeats"}: its port; 0 for a Unix socket.
//
// In order, responses go from clusters to routes, and one of endpoints or routes waits until the
// client has named all that there are.
func (s *server) start(text string) (any, error) {
	words := struct {
		Address, Certificate, Key string
		Ordered, Repeats          bool
	}{Address: "127.0.0.1:0", Ordered: true}
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		return nil, err
	}
	if s.running != nil {
		return nil, errors.New("it runs")
	}
	if s.snapshots == nil {
		s.snapshots = cache.NewSnapshotCache(words.Ordered, everyone{}, nil)
	}
	s.repeats = words.Repeats
	options := []grpc.ServerOption{
		grpc.StreamInterceptor(s.intercept),
		grpc.MaxSendMsgSize(messageMax),
		grpc.MaxRecvMsgSize(messageMax),
	}
	if words.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(words.Certificate), []byte(words.Key))
		if err != nil {
			return nil, err
		}
		config := tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		options = append(options, grpc.Creds(credentials.NewTLS(&config)))
	}
	network, address := "tcp", words.Address
	if path, found := strings.CutPrefix(address, "unix:"); found {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	s.running = grpc.NewServer(options...)
	var server xds.Server
	if words.Ordered {
		server = xds.NewServer(context.Background(), s.snapshots, nil, sotw.WithOrderedADS())
	} else {
		server = xds.NewServer(context.Background(), s.snapshots, nil)
	}
	discovery.RegisterAggregatedDiscoveryServiceServer(s.running, server)
	clusters.RegisterClusterDiscoveryServiceServer(s.running, server)
	endpoints.RegisterEndpointDiscoveryServiceServer(s.running, server)
	listeners.RegisterListenerDiscoveryServiceServer(s.running, server)
	routes.RegisterRouteDiscoveryServiceServer(s.running, server)
	routes.RegisterVirtualHostDiscoveryServiceServer(s.running, server)
	routes.RegisterScopedRoutesDiscoveryServiceServer(s.running, server)
	secrets.RegisterSecretDiscoveryServiceServer(s.running, server)
	extensions.RegisterExtensionConfigDiscoveryServiceServer(s.running, server)
	runtimes.RegisterRuntimeDiscoveryServiceServer(s.running, server)
	go s.running.Serve(listener)
	if address, is := listener.Addr().(*net.TCPAddr); is {
		return address.Port, nil
	}
	return 0, nil
}

// stop: every connection ends at once, as if the process had been killed.
func (s *server) stop() (any, error) {
	if s.running == nil {
		return nil, errors.New("it does not run")
	}
	s.running.Stop()
	s.running = nil
	return true, nil
}

// set {"versions": {type: version}, "resources": {type: [resource]}}: what there is of these types
// from now on. Types that are not named stay as they are.
func (s *server) set(text string) (any, error) {
	words := struct {
		Versions  map[string]string
		Resources map[string][]json.RawMessage
	}{}
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		return nil, err
	}
	for name, raw := range words.Resources {
		var resources []types.Resource
		for _, one := range raw {
			message, err := parse(name, one)
			if err != nil {
				return nil, err
			}
			resources = append(resources, message)
		}
		s.resources[name], s.versions[name] = resources, words.Versions[name]
	}
	return true, s.publish()
}

// hold and release {"types": [type]}: what is set of a held type stays with the server until it is
// released.
func (s *server) hold(text string, hold bool) (any, error) {
	words := struct{ Types []string }{}
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		return nil, err
	}
	for _, name := range words.Types {
		s.held[name] = hold
	}
	return true, s.publish()
}

func (s *server) publish() error {
	// A snapshot in the cache is not touched any more.
	next := cache.Snapshot{Resources: s.snapshot.Resources}
	for name, resources := range s.resources {
		at := cache.GetResponseType(name)
		if at == types.UnknownType {
			return fmt.Errorf("no type %s", name)
		}
		if !s.held[name] {
			next.Resources[at] = cache.NewResources(s.versions[name], resources)
		}
	}
	s.snapshot = next
	return s.snapshots.SetSnapshot(context.Background(), "", &next)
}

// events {"from", "wait_ms"}: those from this number on; if there are none yet, the next ones, when
// there are some within that time.
func (s *server) events(text string) (any, error) {
	words := struct {
		From   int
		WaitMs int `json:"wait_ms"`
	}{}
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		return nil, err
	}
	return s.log.after(words.From, time.Duration(words.WaitMs)*time.Millisecond), nil
}

func parse(name string, text []byte) (proto.Message, error) {
	any := anypb.Any{TypeUrl: name}
	message, err := any.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(text, message); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return message, nil
}

// stream is one as the transport has it.
type stream struct {
	grpc.ServerStream
	server   *server
	id       int
	service  string
	client   string
	lock     sync.Mutex
	versions map[string]string
}

func (s *server) intercept(
	service any, inner grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	str := &stream{ServerStream: inner, server: s, versions: map[string]string{}}
	str.id, str.service = s.log.nextStream(), info.FullMethod
	str.note("open", map[string]any{"method": info.FullMethod})
	err := handler(service, str)
	str.note("close", map[string]any{"error": fmt.Sprint(err)})
	return err
}

func (str *stream) note(what string, event map[string]any) {
	event["event"], event["stream"], event["client"] = what, str.id, str.client
	str.server.log.add(event)
}

func (str *stream) RecvMsg(message any) error {
	if err := str.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	str.lock.Lock()
	defer str.lock.Unlock()
	switch request := message.(type) {
	case *discovery.DiscoveryRequest:
		event := map[string]any{
			"type":    request.GetTypeUrl(),
			"version": request.GetVersionInfo(),
			"nonce":   request.GetResponseNonce(),
			"names":   list(request.GetResourceNames()),
		}
		str.describe(event, request)
		str.note("request", event)
		if request.GetErrorDetail() != nil && !str.server.repeats {
			// By the version that is still in use the library sees that the client is behind,
			// and answers with what was just refused.
			request.VersionInfo = str.versions[request.GetTypeUrl()]
		}
	case *discovery.DeltaDiscoveryRequest:
		event := map[string]any{
			"type":        request.GetTypeUrl(),
			"nonce":       request.GetResponseNonce(),
			"subscribe":   list(request.GetResourceNamesSubscribe()),
			"unsubscribe": list(request.GetResourceNamesUnsubscribe()),
			"initial":     request.GetInitialResourceVersions(),
		}
		str.describe(event, request)
		str.note("request", event)
	}
	return nil
}

func (str *stream) SendMsg(message any) error {
	str.lock.Lock()
	switch response := message.(type) {
	case *discovery.DiscoveryResponse:
		names := []string{}
		for _, resource := range response.GetResources() {
			if message, err := resource.UnmarshalNew(); err == nil {
				names = append(names, cache.GetResourceName(message))
			}
		}
		str.versions[response.GetTypeUrl()] = response.GetVersionInfo()
		str.note("response", map[string]any{
			"type":    response.GetTypeUrl(),
			"version": response.GetVersionInfo(),
			"nonce":   response.GetNonce(),
			"names":   names,
		})
	case *discovery.DeltaDiscoveryResponse:
		names := []string{}
		for _, resource := range response.GetResources() {
			names = append(names, resource.GetName())
		}
		// The library leaves out what every client knows from its request.
		str.note("response", map[string]any{
			"type":    response.GetTypeUrl(),
			"version": response.GetSystemVersionInfo(),
			"nonce":   response.GetNonce(),
			"names":   names,
			"removed": list(response.GetRemovedResources()),
		})
	}
	str.lock.Unlock()
	return str.ServerStream.SendMsg(message)
}

type request interface {
	GetNode() *core.Node
	proto.Message
}

// describe adds what both variants have: the node, in short, and the error.
func (str *stream) describe(event map[string]any, message request) {
	if node := message.GetNode(); node != nil {
		str.client = node.GetId()
		bytes, _ := proto.MarshalOptions{Deterministic: true}.Marshal(node)
		sum := sha256.Sum256(bytes)
		event["node_hash"] = hex.EncodeToString(sum[:])
		// Hundreds, of no interest.
		short := proto.Clone(node).(*core.Node)
		short.Extensions = nil
		if text, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(short); err == nil {
			event["node"] = json.RawMessage(text)
		}
	}
	var detail interface {
		GetCode() int32
		GetMessage() string
	}
	switch message := message.(type) {
	case *discovery.DiscoveryRequest:
		if message.GetErrorDetail() == nil {
			return
		}
		detail = message.GetErrorDetail()
	case *discovery.DeltaDiscoveryRequest:
		if message.GetErrorDetail() == nil {
			return
		}
		detail = message.GetErrorDetail()
	}
	event["error"] = map[string]any{"code": detail.GetCode(), "message": detail.GetMessage()}
}

func list(names []string) []string { return append([]string{}, names...) }

// eventLog holds all events since the start, which are numbered from 0.
type eventLog struct {
	lock    sync.Mutex
	changed *sync.Cond
	events  []map[string]any
	streams int
}

func (log *eventLog) add(event map[string]any) {
	log.lock.Lock()
	defer log.lock.Unlock()
	log.events = append(log.events, event)
	log.changed.Broadcast()
}

func (log *eventLog) nextStream() int {
	log.lock.Lock()
	defer log.lock.Unlock()
	log.streams++
	return log.streams
}

func (log *eventLog) after(from int, wait time.Duration) []map[string]any {
	deadline := time.Now().Add(wait)
	alarm := time.AfterFunc(wait, log.changed.Broadcast)
	defer alarm.Stop()
	log.lock.Lock()
	defer log.lock.Unlock()
	for len(log.events) <= from && time.Now().Before(deadline) {
		log.changed.Wait()
	}
	if from > len(log.events) {
		from = len(log.events)
	}
	return append([]map[string]any{}, log.events[from:]...)
}
