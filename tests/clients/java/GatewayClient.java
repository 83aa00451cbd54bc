import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.api.MethodOutcome;
import ca.uhn.fhir.rest.api.PreferReturnEnum;
import ca.uhn.fhir.rest.api.SearchStyleEnum;
import ca.uhn.fhir.rest.client.api.IGenericClient;
import ca.uhn.fhir.rest.client.api.ServerValidationModeEnum;
import ca.uhn.fhir.rest.client.exceptions.FhirClientInappropriateForServerException;
import ca.uhn.fhir.rest.client.interceptor.BearerTokenAuthInterceptor;
import ca.uhn.fhir.rest.gclient.IOperationUntypedWithInput;
import ca.uhn.fhir.rest.gclient.IQuery;
import ca.uhn.fhir.rest.server.exceptions.BaseServerResponseException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.hl7.fhir.r4.model.Bundle;
import org.hl7.fhir.r4.model.Enumerations.AdministrativeGender;
import org.hl7.fhir.r4.model.IdType;
import org.hl7.fhir.r4.model.Observation;
import org.hl7.fhir.r4.model.OperationOutcome;
import org.hl7.fhir.r4.model.Parameters;
import org.hl7.fhir.r4.model.Patient;
import org.hl7.fhir.r4.model.Resource;

/**
 * HAPI's generic client, as it comes, against the gateway.
 *
 * <p>Called with the FHIR base and a prefix for ids, and with two tokens on stdin, one a line:
 * one that may do much, one that may only read Patients. Writes what it saw to stdout, each as
 * a line of name, tab, value.
 */
public final class GatewayClient {

  private static final String SYSTEM = "https://w3id.org/fhir-ext/test/java";

  private final FhirContext context = FhirContext.forR4();
  private final String base;
  private final String prefix;
  private final IGenericClient client;

  private GatewayClient(String base, String prefix, String token) {
    this.base = base;
    this.prefix = prefix;
    // The client reads /metadata before its first request, and refuses another FHIR version.
    context.getRestfulClientFactory().setServerValidationMode(ServerValidationModeEnum.ONCE);
    client = withToken(token);
  }

  public static void main(String[] arguments) throws IOException {
    BufferedReader stdin =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
    String wide = stdin.readLine();
    String narrow = stdin.readLine();
    GatewayClient run = new GatewayClient(arguments[0], arguments[1], wide);
    run.capabilities();
    run.life();
    run.pages();
    run.transaction();
    run.operations();
    run.errors(narrow);
  }

  /** What the capability check is for: a client of another FHIR version does not go on. */
  private void capabilities() {
    IGenericClient other = FhirContext.forR5().newRestfulGenericClient(base);
    try {
      other.read().resource("Patient").withId("x").execute();
      say("another version", "no failure");
    } catch (FhirClientInappropriateForServerException error) {
      say("another version", "refused by the client");
    }
  }

  private void life() {
    Patient patient = patient("life");
    MethodOutcome created =
        client.create().resource(patient).prefer(PreferReturnEnum.REPRESENTATION).execute();
    String id = created.getId().getIdPart();
    say("created", created.getId().getValue().replace(id, "ID"));
    MethodOutcome again =
        client
            .create()
            .resource(patient)
            .conditional()
            .where(Patient.IDENTIFIER.exactly().systemAndIdentifier(SYSTEM, prefix + "-life"))
            .execute();
    say("created again", again.getId().getIdPart().equals(id) ? "the same" : "another");

    Patient read = client.read().resource(Patient.class).withId(id).execute();
    say("read", read.getNameFirstRep().getFamily());
    read.setGender(AdministrativeGender.FEMALE);
    say("updated", client.update().resource(read).execute().getId().getVersionIdPart());
    Patient old = client.read().resource(Patient.class).withIdAndVersion(id, "1").execute();
    say("old", String.valueOf(old.getGender()));
    Patient kept =
        client
            .read()
            .resource(Patient.class)
            .withId(id)
            .ifVersionMatches("2")
            .returnNull()
            .execute();
    say("not modified", String.valueOf(kept));
    Bundle history =
        client.history().onInstance("Patient/" + id).returnBundle(Bundle.class).execute();
    say("history", genders(history));
  }

  private void pages() {
    List<String> ids = new ArrayList<>();
    for (int number = 0; number < 5; number++) {
      ids.add(put(patient("page-" + number)));
    }
    IQuery<Bundle> query =
        client
            .search()
            .forResource(Patient.class)
            .where(Patient.RES_ID.exactly().codes(ids))
            .sort()
            .ascending(Patient.RES_ID)
            .count(2)
            .returnBundle(Bundle.class);
    List<String> pages = new ArrayList<>();
    Bundle page = query.execute();
    while (page != null) {
      pages.add(ids(page));
      boolean more = page.getLink(Bundle.LINK_NEXT) != null;
      page = more ? client.loadPage().next(page).execute() : null;
    }
    say("pages", String.join(" | ", pages));
    say("posted", ids(query.usingStyle(SearchStyleEnum.POST).execute()));
  }

  private void transaction() {
    Bundle bundle = new Bundle().setType(Bundle.BundleType.TRANSACTION);
    for (Resource resource : List.of(patient("group"), observation("group"))) {
      String address = resource.fhirType() + "/" + resource.getIdPart();
      bundle
          .addEntry()
          .setFullUrl(base + "/" + address)
          .setResource(resource)
          .getRequest()
          .setMethod(Bundle.HTTPVerb.PUT)
          .setUrl(address);
    }
    Bundle answer = client.transaction().withBundle(bundle).execute();
    say(
        "transaction",
        answer.getEntry().stream()
            .map(entry -> entry.getResponse().getStatus())
            .collect(Collectors.joining(", ")));
    Bundle found =
        client
            .search()
            .forResource(Observation.class)
            .where(Observation.RES_ID.exactly().code(prefix + "-group"))
            .include(Observation.INCLUDE_SUBJECT)
            .returnBundle(Bundle.class)
            .execute();
    say("included", types(found));
  }

  private void operations() {
    IOperationUntypedWithInput<Parameters> everything =
        client
            .operation()
            .onInstance("Patient/" + prefix + "-group")
            .named("$everything")
            .withNoParameters(Parameters.class);
    say("everything", types(everything.returnResourceType(Bundle.class).execute()));
    Bundle byGet = everything.useHttpGet().returnResourceType(Bundle.class).execute();
    say("everything by GET", types(byGet));

    // Without an id: with one the client asks on the instance, which the gateway keeps closed.
    Observation observation = observation("group");
    observation.setId((String) null);
    say("valid", errorsIn(client.validate().resource(observation).execute()));
    observation.setCode(null);
    say("invalid", errorsIn(client.validate().resource(observation).execute()));
  }

  private void errors(String narrowToken) {
    IGenericClient narrow = withToken(narrowToken);
    IGenericClient stranger = withToken("not.a.token");
    Patient group = patient("group");
    failure("no such resource", () -> client.read().resource("Patient").withId("x").execute());
    failure("closed by the table", () -> client.search().byUrl("AuditEvent").execute());
    failure("closed by the scope", () -> narrow.search().byUrl("Observation").execute());
    failure("no write", () -> narrow.create().resource(group).execute());
    failure("no token", () -> stranger.read().resource("Patient").withId("x").execute());
    put(group.setGender(AdministrativeGender.OTHER));
    failure(
        "stale",
        () ->
            client
                .update()
                .resource(group)
                .withAdditionalHeader("If-Match", "W/\"1\"")
                .execute());
    failure("too much", () -> client.search().byUrl("Patient?_count=1000000").execute());
  }

  private IGenericClient withToken(String token) {
    IGenericClient made = context.newRestfulGenericClient(base);
    made.registerInterceptor(new BearerTokenAuthInterceptor(token));
    return made;
  }

  private Patient patient(String key) {
    Patient patient = new Patient();
    patient.setId(prefix + "-" + key);
    patient.addIdentifier().setSystem(SYSTEM).setValue(prefix + "-" + key);
    patient.addName().setFamily("Ørsted");
    return patient;
  }

  private Observation observation(String key) {
    Observation observation = new Observation();
    observation.setId(prefix + "-" + key);
    observation.setStatus(Observation.ObservationStatus.FINAL);
    observation.getCode().setText("pack-years");
    observation.getSubject().setReferenceElement(new IdType("Patient", prefix + "-group"));
    return observation;
  }

  private String put(Patient patient) {
    return client.update().resource(patient).execute().getId().getIdPart();
  }

  private static String ids(Bundle bundle) {
    return bundle.getEntry().stream()
        .map(entry -> entry.getResource().getIdElement().getIdPart())
        .collect(Collectors.joining(", "));
  }

  private static String types(Bundle bundle) {
    return bundle.getEntry().stream()
        .map(entry -> entry.getResource().fhirType())
        .sorted()
        .collect(Collectors.joining(", "));
  }

  private static String genders(Bundle bundle) {
    return bundle.getEntry().stream()
        .map(entry -> String.valueOf(((Patient) entry.getResource()).getGender()))
        .collect(Collectors.joining(", "));
  }

  private static String errorsIn(MethodOutcome outcome) {
    return ((OperationOutcome) outcome.getOperationOutcome())
        .getIssue().stream()
            .filter(issue -> issue.getSeverity() == OperationOutcome.IssueSeverity.ERROR)
            .map(OperationOutcome.OperationOutcomeIssueComponent::getDiagnostics)
            .collect(Collectors.joining("; "));
  }

  /** Says which exception a call ends with, and the code in its OperationOutcome. */
  private static void failure(String name, Runnable call) {
    try {
      call.run();
      say(name, "no failure");
    } catch (BaseServerResponseException error) {
      OperationOutcome outcome = (OperationOutcome) error.getOperationOutcome();
      String code =
          outcome == null
              ? "no OperationOutcome"
              : outcome.getIssueFirstRep().getDetails().getCodingFirstRep().getCode();
      say(name, error.getClass().getSimpleName() + ", " + code);
    }
  }

  private static void say(String name, String value) {
    System.out.println(name + "\t" + value);
  }
}
