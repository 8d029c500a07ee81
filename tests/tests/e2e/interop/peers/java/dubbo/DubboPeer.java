package dubbo;

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ArgumentConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.rpc.RpcContext;
import org.apache.dubbo.rpc.RpcException;
import org.apache.dubbo.rpc.service.GenericService;
import peer.BaseEcho;
import peer.Echo;
import peer.Notes;
import peer.Peer;

/** Apache Dubbo, by its own protocol and by Triple: provider and consumer. */
public final class DubboPeer {
    /** Longer than anything takes. */
    private static final int PATIENCE_MS = 40_000;

    private static final Map<String, Object> REFERENCES = new HashMap<>();

    private DubboPeer() {}

    public static void main(String[] args) throws Exception {
        ApplicationConfig application = new ApplicationConfig("peer");
        // Its own console would listen on a port that is the same for all.
        application.setQosEnable(false);
        // And so would a service for registries.
        application.setMetadataServicePort(Peer.freePort());
        DubboBootstrap.getInstance()
            .application(application)
            .registry(new RegistryConfig(RegistryConfig.NO_AVAILABLE));
        new Peer(DubboPeer::code)
            .on("serve", DubboPeer::serve)
            .on("notes", arguments -> Notes.take(arguments.number("count", 1)))
            .on("call", DubboPeer::call)
            .on("many", DubboPeer::many)
            .on("generic", DubboPeer::generic)
            .on("attachment", DubboPeer::attachment)
            .on("watch", DubboPeer::watch)
            .run();
    }

    /**
     * {@code serve protocol=dubbo serialization=hessian2 groups=a,b}: the port, where all versions
     * are 1.0.0.
     */
    private static Object serve(Peer.Arguments arguments) throws Exception {
        ProtocolConfig protocol = new ProtocolConfig(arguments.text("protocol", "dubbo"));
        protocol.setHost("127.0.0.1");
        protocol.setPort(Peer.freePort());
        protocol.setThreadpool("cached");
        protocol.setSerialization(arguments.text("serialization", "hessian2"));
        for (String group : arguments.alternatives("groups")) {
            ServiceConfig<Echo> service = new ServiceConfig<>();
            service.setInterface(Echo.class);
            service.setRef(new DubboEcho());
            export(service, protocol, group);
        }
        ServiceConfig<Watch> watch = new ServiceConfig<>();
        watch.setInterface(Watch.class);
        watch.setRef((text, listener) -> listener.heard(text));
        watch.setMethods(List.of(watchMethod()));
        export(watch, protocol, "");
        return protocol.getPort();
    }

    private static void export(ServiceConfig<?> service, ProtocolConfig protocol, String group) {
        service.setRegister(false);
        service.setVersion("1.0.0");
        service.setProtocol(protocol);
        if (!group.isEmpty()) {
            service.setGroup(group);
        }
        service.export();
    }

    /**
     * {@code call url=dubbo://host:port kind=sync group=... version=... method=say text=...}: what
     * the method returns.
     */
    private static Object call(Peer.Arguments arguments) throws Throwable {
        Echo echo = reference(arguments, Echo.class);
        String method = arguments.text("method", "say");
        String text = arguments.text("text", "hello");
        String kind = arguments.text("kind", "sync");
        return switch (kind) {
            case "sync" -> invoke(echo, method, text);
            case "future" -> later(() -> invoke(echo, method, text))
                .get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            case "callback" -> {
                CompletableFuture<Object> answer = new CompletableFuture<>();
                later(() -> invoke(echo, method, text)).whenComplete((value, error) -> {
                    if (error == null) {
                        answer.complete(value);
                    } else {
                        answer.completeExceptionally(error);
                    }
                });
                yield answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            }
            case "oneway" -> {
                RpcContext.getServiceContext().asyncCall(() -> {
                    try {
                        invoke(echo, method, text);
                    } catch (Exception error) {
                        throw new IllegalStateException(error);
                    }
                });
                yield "sent";
            }
            default -> throw new IllegalArgumentException(kind);
        };
    }

    /** {@code many url=... count=1000}: how many of so many calls at once went well. */
    private static Object many(Peer.Arguments arguments) throws Throwable {
        int count = arguments.number("count", 1000);
        String text = String.valueOf(count);
        Echo echo = reference(arguments, Echo.class);
        List<CompletableFuture<Object>> answers = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            answers.add(later(() -> echo.rally(text)));
        }
        int good = 0;
        for (CompletableFuture<Object> answer : answers) {
            good += text.equals(answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS)) ? 1 : 0;
        }
        return good;
    }

    /** {@code generic url=... method=say text=...}: the same without the interface. */
    private static Object generic(Peer.Arguments arguments) throws Throwable {
        GenericService service = reference(arguments, GenericService.class);
        return service.$invoke(
            arguments.text("method", "say"),
            new String[] {String.class.getName()},
            new Object[] {arguments.text("text", "hello")});
    }

    /** {@code attachment url=... text=...}: an attachment as it came back in the response's. */
    private static Object attachment(Peer.Arguments arguments) throws Throwable {
        Echo echo = reference(arguments, Echo.class);
        RpcContext.getClientAttachment().setAttachment("there", arguments.text("text"));
        echo.header("there");
        return RpcContext.getClientResponseContext().getAttachment("back");
    }

    /** {@code watch url=... text=...}: what the server got when it called back. */
    private static Object watch(Peer.Arguments arguments) throws Throwable {
        // By the parameters that a registry would tell of the provider.
        Watch watch = reference(
            arguments.text("url") + "&watch.1.callback=true", arguments, Watch.class);
        return watch.watch(arguments.text("text"), text -> "heard " + text);
    }

    private static CompletableFuture<Object> later(java.util.concurrent.Callable<Object> call) {
        return RpcContext.getServiceContext().asyncCall(call);
    }

    private static <T> T reference(Peer.Arguments arguments, Class<T> type) {
        return reference(arguments.text("url"), arguments, type);
    }

    @SuppressWarnings("unchecked")
    private static <T> T reference(String url, Peer.Arguments arguments, Class<T> type) {
        String group = arguments.text("group", "");
        String version = arguments.text("version", "1.0.0");
        int timeout = arguments.number("timeout", PATIENCE_MS);
        String key = String.join(
            " ", url, group, version, type.getName(), String.valueOf(timeout));
        return (T) REFERENCES.computeIfAbsent(key, ignored -> {
            ReferenceConfig<T> reference = new ReferenceConfig<>();
            if (type == GenericService.class) {
                reference.setInterface(Echo.class.getName());
                reference.setGeneric("true");
            } else {
                reference.setInterface(type);
            }
            if (type == Watch.class) {
                // Without it, what the URL says of the method does not count.
                reference.setMethods(List.of(watchMethod()));
            }
            reference.setUrl(url);
            reference.setVersion(version);
            if (!group.isEmpty()) {
                reference.setGroup(group);
            }
            reference.setTimeout(timeout);
            reference.setCheck(false);
            // One after the other would all be the same failure.
            reference.setRetries(0);
            return reference.get();
        });
    }

    /** That the second argument of {@link Watch#watch} is called back. */
    private static MethodConfig watchMethod() {
        ArgumentConfig listener = new ArgumentConfig();
        listener.setIndex(1);
        listener.setCallback(true);
        MethodConfig method = new MethodConfig();
        method.setName("watch");
        method.setArguments(List.of(listener));
        return method;
    }

    private static Object invoke(Echo echo, String method, String text) throws Exception {
        return switch (method) {
            case "say" -> echo.say(text);
            case "slow" -> echo.slow(text);
            case "fail" -> echo.fail(text);
            case "note" -> echo.note(text);
            case "header" -> echo.header(text);
            case "letters" -> echo.letters(text).length();
            default -> throw new IllegalArgumentException(method);
        };
    }

    /** The name of a Dubbo error code. */
    private static String code(Throwable error) {
        if (!(error instanceof RpcException rpc)) {
            return null;
        }
        for (Field field : RpcException.class.getFields()) {
            try {
                if (field.getInt(null) == rpc.getCode()) {
                    return field.getName();
                }
            } catch (IllegalAccessException | IllegalArgumentException ignored) {
                // Not one of the numbers.
            }
        }
        return String.valueOf(rpc.getCode());
    }

    private static final class DubboEcho extends BaseEcho {
        @Override
        public String header(String name) {
            String value = RpcContext.getServerAttachment().getAttachment(name);
            RpcContext.getServerResponseContext().setAttachment("back", value);
            return value;
        }
    }
}
