package dubbo;

/** A service that calls back. */
public interface Watch {
    /** What the server calls. */
    interface Listener {
        /** An answer that the server waits for. */
        String heard(String text);
    }

    /** Returns what the listener makes of the text. */
    String watch(String text, Listener listener);
}
