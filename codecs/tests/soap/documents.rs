//! Envelopes as clients write them, and as they could.

/// Documents, and the operations that they name.
pub(crate) const FOUND: &[(&str, &str)] = &[
    (
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope \
         xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
         <m:GetPrice xmlns:m=\"urn:m\"><m:Item>Apples</m:Item></m:GetPrice></soap:Body>\
         </soap:Envelope>",
        "GetPrice",
    ),
    (
        "<Envelope xmlns='http://www.w3.org/2003/05/soap-envelope'>\r\n\t<Header/>\n\
         <Body ><op/></Body></Envelope >",
        "op",
    ),
    (
        "\u{feff}<?xml version=\"1.0\"?><!-- first - \u{4e2d} --><?pi what? ever?>\n\
         <s:Envelope xmlns:s='urn:s' a=\"1 > 0 '\" b = '>/\"'><s:Header xmlns:w=\"urn:w\">\
         <w:Security s:mustUnderstand='1'><s:Body><wrong/></s:Body><![CDATA[</s:Header><x>]]]]>\
         </w:Security><w:Body/>text &amp; more</s:Header><!----><s:Body Id='x'><![CDATA[ ]]> \
         text <?pi ?><p:\u{64cd}\u{4f5c} xmlns:p='urn:p' a='&lt;' /></s:Body></s:Envelope>",
        "\u{64cd}\u{4f5c}",
    ),
    (
        "<?xml version='1.0' encoding='ISO-8859-1' ?><Envelope><Body><a.b-c_d/></Body></Envelope>",
        "a.b-c_d",
    ),
    (
        "<e:Envelope xmlns:e='urn:e'><e:Header/><e:Body><first/><second/></e:Body></e:Envelope>",
        "first",
    ),
];

/// Documents without an operation.
pub(crate) const NOTHING: &[&str] = &[
    "<Envelope/>",
    "<Envelope></Envelope>",
    "<Envelope><Body/></Envelope>",
    "<Envelope><Body>text</Body></Envelope>",
    "<Envelope><Header><Body><op/></Body></Header></Envelope>",
    "<Envelope><Body></Body><Body><op/></Body></Envelope>",
    "<html><Body><op/></Body></html>",
    "<a:Envelope xmlns:a='urn:a'><Body><op/></Body></a:Envelope>",
    "<a:Envelope xmlns:a='urn:a' xmlns:b='urn:b'><b:Body><no/></b:Body><a:Body/></a:Envelope>",
    "<Envelope><Other/><Body><op/></Body></Envelope>",
    "<!DOCTYPE Envelope><Envelope><Body><op/></Body></Envelope>",
    "<!DOCTYPE Envelope [<!ENTITY a '<x/>'>]><Envelope><Body>&a;<op/></Body></Envelope>",
    "text<Envelope><Body><op/></Body></Envelope>",
    "<Envelope><Body><!-- -- --><op/></Body></Envelope>",
    "<Envelope a='<'><Body><op/></Body></Envelope>",
    "<Envelope a='1'b='2'><Body><op/></Body></Envelope>",
    "<Envelope a=1><Body><op/></Body></Envelope>",
    "< Envelope><Body><op/></Body></Envelope>",
    "<Envelope><Body><:op/></Body></Envelope>",
    "<Envelope><Body><a:b:op/></Body></Envelope>",
    "<![CDATA[]]><Envelope><Body><op/></Body></Envelope>",
    "</Envelope><Envelope><Body><op/></Body></Envelope>",
    "<?xml version='1.0' encoding='UTF-16'?><Envelope><Body><op/></Body></Envelope>",
    "{\"json\": true}",
    "",
    "<",
];
