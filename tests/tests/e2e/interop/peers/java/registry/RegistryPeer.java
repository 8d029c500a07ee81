package registry;

import java.util.HashMap;
import java.util.Map;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import peer.BaseEcho;
import peer.Echo;
import peer.Peer;

/** Apache Dubbo with a registry, which it alone talks to: provider and consumer, by interface. */
public final class RegistryPeer {
    private static final Map<String, Echo> REFERENCES = new HashMap<>();

    private RegistryPeer() {}

    public static void main(String[] args) throws Exception {
        new Peer(error -> null)
            .on("registry", RegistryPeer::registry)
            .on("serve", RegistryPeer::serve)
            .on("call", RegistryPeer::call)
            .run();
    }

    /** {@code registry url=zookeeper://host:port}: the one that is used from now on. */
    private static Object registry(Peer.Arguments arguments) throws Exception {
        ApplicationConfig application = new ApplicationConfig("peer");
        application.setQosEnable(false);
        application.setRegisterMode("interface");
        application.setMetadataServicePort(Peer.freePort());
        RegistryConfig registry = new RegistryConfig(arguments.text("url"));
        registry.setRegisterMode("interface");
        registry.setUseAsConfigCenter(false);
        registry.setUseAsMetadataCenter(false);
        DubboBootstrap.getInstance().application(application).registry(registry);
        return "used";
    }

    /** {@code serve group=... version=...}: the port. */
    private static Object serve(Peer.Arguments arguments) throws Exception {
        ProtocolConfig protocol = new ProtocolConfig("dubbo");
        protocol.setHost("127.0.0.1");
        protocol.setPort(Peer.freePort());
        ServiceConfig<Echo> service = new ServiceConfig<>();
        service.setInterface(Echo.class);
        service.setRef(new BaseEcho() {
            @Override
            public String header(String name) {
                return null;
            }
        });
        service.setGroup(arguments.text("group"));
        service.setVersion(arguments.text("version"));
        service.setProtocol(protocol);
        service.export();
        return protocol.getPort();
    }

    /** {@code call group=... version=... text=...}: what the method returns. */
    private static Object call(Peer.Arguments arguments) {
        String group = arguments.text("group");
        String version = arguments.text("version");
        Echo echo = REFERENCES.computeIfAbsent(group + " " + version, ignored -> {
            ReferenceConfig<Echo> reference = new ReferenceConfig<>();
            reference.setInterface(Echo.class);
            reference.setProtocol("dubbo");
            reference.setGroup(group);
            reference.setVersion(version);
            reference.setCheck(false);
            reference.setTimeout(10_000);
            return reference.get();
        });
        return echo.say(arguments.text("text"));
    }
}
