// A client of dubbo-go that does what it is told: each line of standard input is a command, as for
// the peers in Java, and is answered with one line of JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"dubbo.apache.org/dubbo-go/v3/client"
	_ "dubbo.apache.org/dubbo-go/v3/cluster/cluster/failfast"
	_ "dubbo.apache.org/dubbo-go/v3/cluster/loadbalance/random"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	_ "dubbo.apache.org/dubbo-go/v3/filter/graceful_shutdown"
	_ "dubbo.apache.org/dubbo-go/v3/protocol/dubbo"
	_ "dubbo.apache.org/dubbo-go/v3/proxy/proxy_factory"
	"github.com/dubbogo/gost/log/logger"
)

// Longer than anything takes.
const patience = 40 * time.Second

type arguments map[string]string

func (words arguments) or(name, otherwise string) string {
	if value, found := words[name]; found {
		return value
	}
	return otherwise
}

type peer struct {
	connections map[string]*client.Connection
}

func main() {
	logger.SetLoggerLevel("error")
	answers, err := takeStdout()
	if err != nil {
		panic(err)
	}
	p := peer{connections: map[string]*client.Connection{}}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		value, err := p.answer(lines.Text())
		answer := map[string]any{"value": value}
		if err != nil {
			answer = map[string]any{"error": fmt.Sprintf("%T", err), "message": err.Error()}
		}
		line, err := json.Marshal(answer)
		if err != nil {
			line = []byte(`{"error": "json"}`)
		}
		fmt.Fprintf(answers, "%s\n", line)
	}
}

// takeStdout makes what libraries print go to standard error: it is no answer.
func takeStdout() (*os.File, error) {
	answers, err := syscall.Dup(syscall.Stdout)
	if err != nil {
		return nil, err
	}
	if err := syscall.Dup3(syscall.Stderr, syscall.Stdout, 0); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(answers), "answers"), nil
}

func (p *peer) answer(line string) (any, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, errors.New("no command")
	}
	found := arguments{}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		found[name] = value
	}
	switch words[0] {
	case "call":
		return p.call(found)
	case "many":
		return p.many(found)
	}
	return nil, fmt.Errorf("no command %s", words[0])
}

// call to=host:port method=say text=...: what the method returns.
func (p *peer) call(words arguments) (any, error) {
	connection, err := p.connection(words)
	if err != nil {
		return nil, err
	}
	return invoke(connection, words, words.or("method", "say"), words.or("text", "hello"))
}

// many to=... count=1000: how many of so many calls, all under way at once, went well.
func (p *peer) many(words arguments) (any, error) {
	connection, err := p.connection(words)
	if err != nil {
		return nil, err
	}
	count, err := strconv.Atoi(words.or("count", "1000"))
	if err != nil {
		return nil, err
	}
	text := strconv.Itoa(count)
	failures := make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			value, err := invoke(connection, words, "rally", text)
			if err == nil && value != text {
				err = fmt.Errorf("%v", value)
			}
			failures[i] = err
		})
	}
	all.Wait()
	good := 0
	for _, err := range failures {
		if err == nil {
			good++
		}
	}
	return good, nil
}

func invoke(c *client.Connection, words arguments, method, text string) (any, error) {
	timeout, err := time.ParseDuration(words.or("timeout", "40000") + "ms")
	if err != nil {
		return nil, err
	}
	attachments := map[string]any{}
	if attached := words.or("attach", ""); attached != "" {
		attachments["tag"] = attached
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx = context.WithValue(ctx, constant.AttachmentKey, attachments)
	var reply string
	err = c.CallUnary(ctx, []any{text}, &reply, method, client.WithCallRequestTimeout(timeout))
	if err != nil {
		return nil, err
	}
	if method == "letters" {
		return len(reply), nil
	}
	return reply, nil
}

func (p *peer) connection(words arguments) (*client.Connection, error) {
	to, group, version := words["to"], words.or("group", ""), words.or("version", "1.0.0")
	key := strings.Join([]string{to, group, version}, " ")
	if known, found := p.connections[key]; found {
		return known, nil
	}
	c, err := client.NewClient(
		client.WithClientProtocolDubbo(),
		client.WithClientSerialization(constant.Hessian2Serialization),
		client.WithClientRequestTimeout(patience),
	)
	if err != nil {
		return nil, err
	}
	connection, err := c.Dial(
		"peer.Echo",
		client.WithURL("dubbo://"+to),
		client.WithGroup(group),
		client.WithVersion(version),
		client.WithClusterFailFast(),
		client.WithRetries(0),
	)
	if err != nil {
		return nil, err
	}
	p.connections[key] = connection
	return connection, nil
}
